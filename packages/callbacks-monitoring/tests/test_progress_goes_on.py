"""Progress bars of a run that goes on within the end of a validation, whose batches are shown no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leyden import Callback, Trainer
from leyden.testing.models import BoringModule
from leyden_checkpoint import OnExceptionCheckpoint
from leyden_monitoring import RichProgressBar, TQDMProgressBar


class Cut(Exception):
    """Ends a run as a crash would."""


class CutIn(Callback):
    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._cut)

    def _cut(self, trainer: Trainer, *_: Any) -> None:
        raise Cut


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_validation_end"])
@pytest.mark.parametrize("bar_class", [TQDMProgressBar, RichProgressBar])
def test_lines_go_on_within_the_end_of_a_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bar_class: type[TQDMProgressBar | RichProgressBar], hook: str
) -> None:
    settings: Any = {
        "accelerator": "cpu", "logger": False, "discover_callbacks": False, "max_epochs": 1, "num_sanity_val_steps": 0,
        "val_check_interval": 2,
    }  # fmt: skip
    saver, module, bar = OnExceptionCheckpoint(tmp_path), BoringModule(batches={"train": 4, "val": 1}), bar_class()
    with pytest.raises(Cut):
        Trainer(callbacks=[saver, CutIn(hook)], **settings).fit(module)
    capsys.readouterr()
    Trainer(callbacks=[bar], **settings).fit(module, ckpt_path=saver.ckpt_path)  # a bar that fails warns
    assert bar.is_enabled
    [line] = [line for line in capsys.readouterr().out.splitlines() if "Epoch 0" in line]
    assert "4/4" in line
