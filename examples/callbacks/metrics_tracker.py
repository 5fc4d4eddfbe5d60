"""Keep the history of all metrics, in the checkpoint too: ``python examples/callbacks/metrics_tracker.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from digit_classifier import Classifier, loaders

from leyden import Callback, LightningModule, Trainer, seed_everything
from leyden.tables import render_table


class MetricsTracker(Callback):
    """Collects every metric at the end of each epoch and validation, in ``history[name] = [[epoch, step, value]]``;
    values become numbers then and not before, so that a training step waits for no device."""

    position = "monitor"  # after the module at the ends of epochs, to see what it logs there

    def __init__(self) -> None:
        self.history: dict[str, list[list[Any]]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.global_step == 0:  # another run; one that goes on loads its state after this
            self.history = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._collect(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    def _collect(self, trainer: Trainer) -> None:
        for name, value in trainer.callback_metrics.items():
            points, step = self.history.setdefault(name, []), trainer.callback_metrics.step_of(name)
            if not points or points[-1][1] < step:  # else nobody has logged it since
                points.append([trainer.current_epoch, step, float(value)])

    def state_dict(self) -> dict[str, Any]:
        return {"history": deepcopy(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = deepcopy(state_dict["history"])

    def plot(self) -> Any:
        """Return a matplotlib figure with a curve for each metric."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4 * len(self.history), 3), layout="constrained")
        for place, (name, points) in enumerate(self.history.items(), start=1):
            axes = figure.add_subplot(1, len(self.history), place, title=name, xlabel="optimizer steps")
            axes.plot([step for _, step, _ in points], [value for _, _, value in points], marker=".")
        return figure


def main(arguments: Sequence[str] | None = None) -> MetricsTracker:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-epochs", type=int, default=4, metavar="N")
    parser.add_argument("--plot", metavar="PATH", help="where to draw the curves")
    options = parser.parse_args(arguments)

    seed_everything(7, verbose=False)
    tracker = MetricsTracker()
    trainer = Trainer(
        max_epochs=options.max_epochs, val_check_interval=0.5, logger=False, callbacks=tracker, discover_callbacks=False
    )
    trainer.fit(Classifier(), *loaders())
    rows = [[name, *point] for name, points in tracker.history.items() for point in points]
    print(render_table(["metric", "epoch", "step", "value"], rows))
    if options.plot:
        tracker.plot().savefig(options.plot)
    return tracker


if __name__ == "__main__":
    main()
