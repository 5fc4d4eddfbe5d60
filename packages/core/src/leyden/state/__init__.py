"""The state of a run: what a checkpoint holds, how it is written and read back."""
