"""Installing the family attaches nothing: what is trained stays what it was."""

from __future__ import annotations

import pytest

from leyden import Trainer
from leyden_finetune.factory import make_callbacks


def test_nothing_attaches_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:finetune")
    trainer = Trainer(logger=False, accelerator="cpu")
    assert (make_callbacks(), trainer.callbacks, trainer.discovered.broken) == ([], [], [])
