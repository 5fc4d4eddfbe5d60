"""The loops: fit, optimisation of one batch, evaluation and prediction, each readable in the order things happen."""
