"""Tell somebody how a run is going, without holding it up: ``python examples/callbacks/notifier.py [URL]``."""

import json
import sys
from collections.abc import Callable, Sequence
from threading import Thread
from urllib.request import Request, urlopen

from digit_classifier import Classifier, loaders

from leyden import Callback, LightningModule, Trainer, rank_zero_warn, seed_everything
from leyden.tables import render_table


class Notifier(Callback):
    """Tells a webhook or a function when a fit starts, ends, fails or has a best `monitor`: in a thread, which the fit
    waits for at its end alone, `timeout_s` at most. What could not be sent is reported then, once."""

    def __init__(self, to: str | Callable[[str], object], monitor: str = "", mode: str = "min", timeout_s: float = 3):
        self.to, self.monitor, self.sign, self.timeout_s = to, monitor, {"min": 1, "max": -1}[mode], timeout_s
        self.best: float | None = None
        self._thread: Thread | None = None
        self._errors: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, "starts")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self.monitor in trainer.callback_metrics and not trainer.sanity_checking:
            score = float(trainer.callback_metrics[self.monitor])
            if self.best is None or self.sign * score < self.sign * self.best:
                self.best = score
                self._tell(trainer, f"has its best {self.monitor} {score:.4f}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, "ends")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._tell(trainer, f"fails with {exception!r:.200}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._thread is not None:
            self._thread.join(self.timeout_s)
            if self._errors or self._thread.is_alive():
                rank_zero_warn(f"Notifier could not send everything: {[*self._errors, 'it takes too long'][0]}")
            self._thread, self._errors = None, []

    def state_dict(self) -> dict[str, float | None]:
        return {"best": self.best}  # so that after a resume the first score is not the best

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        self.best = state_dict["best"]

    def _tell(self, trainer: Trainer, what: str) -> None:
        if trainer.is_global_zero:
            text = f"{type(trainer.lightning_module).__name__} {what} at step {trainer.global_step}"
            self._thread = Thread(target=self._send, args=(text, self._thread, self._errors), daemon=True)
            self._thread.start()

    def _send(self, text: str, before: Thread | None, errors: list[str]) -> None:
        if before is not None:
            before.join()  # messages arrive in their order
        try:
            body, kind = json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
            self.to(text) if callable(self.to) else urlopen(Request(self.to, body, kind), None, self.timeout_s).close()
        except Exception as error:
            errors.append(repr(error))


def main(arguments: Sequence[str] = ()) -> list[str]:
    seed_everything(7, verbose=False)
    told: list[str] = []
    notifier = Notifier(next(iter(arguments), told.append), "val_acc", "max")
    Trainer(max_epochs=4, logger=False, callbacks=notifier, discover_callbacks=False).fit(Classifier(), *loaders())
    print(render_table(["message"], [[text] for text in told]))
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
