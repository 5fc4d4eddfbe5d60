"""The checkpoint callback that attaches itself where the family is installed."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from leyden import Checkpoint, Trainer
from leyden.errors import MisconfigurationException
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint
from leyden_checkpoint.factory import make_callbacks


@pytest.fixture(autouse=True)
def _discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:checkpoint")


def trainer(**settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 2, "logger": False, "accelerator": "cpu"}
    return Trainer(**(usual | settings))


def test_it_keeps_the_newest() -> None:
    made = trainer()
    made.fit(BoringModule())
    (checkpoint,) = made.callbacks
    assert type(checkpoint) is ModelCheckpoint
    assert [path.name for path in Path("checkpoints").iterdir()] == ["epoch=1-step=4.ckpt"]


def test_it_is_left_out_where_the_user_has_one_or_wants_none() -> None:
    assert trainer(enable_checkpointing=False).callbacks == []
    own = Checkpoint()
    assert trainer(callbacks=own).callbacks == [own]


def test_settings_are_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "leyden.toml"
    path.write_text("[discovery.settings.checkpoint]\nsave_last = true\nsave_top_k = 0\n")
    monkeypatch.setenv("LEYDEN_CONFIG", str(path))
    trainer().fit(BoringModule())
    assert [file.name for file in Path("checkpoints").iterdir()] == ["last.ckpt"]
    path.write_text("[discovery.settings.checkpoint]\nsave_lst = true\n")
    with pytest.raises(MisconfigurationException, match=r"leyden\.toml:1: .*no argument 'save_lst'.* 'save_last'\?$"):
        trainer()


def test_a_disk_that_is_full_for_a_while_is_told_each_time_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[str] = []
    save = storage.save

    def full_at_first(checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        saves.append(path)
        if len(saves) <= 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return save(checkpoint, path, *args, **kwargs)

    monkeypatch.setattr(storage, "save", full_at_first)
    made = trainer(max_epochs=4)
    with pytest.warns(UserWarning, match="could not save") as caught:
        made.fit(BoringModule())
    assert len(caught) == 2
    assert made.global_step == 8
    assert [path.name for path in Path("checkpoints").iterdir()] == ["epoch=3-step=8.ckpt"]
    assert made.discovered.switched_off == []


def test_the_factory_makes_a_new_one_each_time() -> None:
    (one,), (other,) = make_callbacks(), make_callbacks()
    assert one is not other
