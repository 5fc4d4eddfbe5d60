"""`leyden hooks --of`: what a class has of hooks and its mistakes, without an instance of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leyden import Callback, MisconfigurationException, Trainer
from leyden.cli import main
from leyden.cli.importing import imported
from leyden.testing import BoringModule

CALLBACKS = """
import leyden

class Fine(leyden.Callback):
    position = "monitor"

    def __init__(self):
        raise RuntimeError("made an instance of")

    def setup(self, trainer, pl_module, stage=None): ...

    def on_train_batch_end(self, trainer, outputs): ...

    @staticmethod
    def on_fit_start(*args): ...

    @property
    def on_fit_end(self):
        raise RuntimeError("asked for a property")

class Older(Fine):
    def on_epoch_end(self, trainer, pl_module): ...

    def on_train_epoch_end(self, trainer, pl_module, outputs): ...

    def on_coffee_break(self): ...

class Wrong(leyden.Callback):
    position = "monitr"
    runs_after = (3,)
    on_test_end = 3

    def on_train_batch_ends(self, trainer, pl_module): ...

    def on_fit_start(self, module): ...

    def teardwon(self): ...

ready = leyden.LambdaCallback(on_fit_end=lambda trainer, module: None)
nothing = 3
class Unrelated: ...
"""

MODULES = """
import leyden

class Net(leyden.LightningModule):
    def training_step(self, batch): ...

    def configure_optimizers(self): ...

    def on_validation_epoch_end(self, outputs): ...

    def validation_epoch_end(self, outputs): ...

    def optimizer_step(self, epoch): ...

class Base(leyden.LightningModule): ...

class Data(leyden.LightningDataModule):
    def setup(self): ...

    def train_dataloader(self): ...

    def vla_dataloader(self): ...

    def on_fit_start(self): ...
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_callbacks.py").write_text(CALLBACKS)
    (tmp_path / "own_modules.py").write_text(MODULES)


def shown(capsys: pytest.CaptureFixture[str], target: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main(["hooks", "--of", target, "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, json.loads(captured.out)


def test_what_a_callback_overrides_in_the_order_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_callbacks.py:Fine")
    assert status == 0
    assert data == {
        "target": "own_callbacks.py:Fine",
        "kind": "callback",
        "position": "monitor",
        "overrides": [
            {
                "hook": "setup",
                "takes": "(trainer, pl_module, stage)",
                "generation": "2.x",
                "defined_in": "Fine",
                "called": "an entry point begins: fit, validate, test or predict",
            },
            {
                "hook": "on_fit_start",
                "takes": "(*args)",
                "generation": "2.x",
                "defined_in": "Fine",
                "called": "fit begins",
            },
            {
                "hook": "on_train_batch_end",
                "takes": "(trainer, outputs)",
                "generation": "2.x",
                "defined_in": "Fine",
                "called": "after each training step; outputs hold the detached loss",
            },
            {
                "hook": "on_fit_end",
                "takes": "(a property)",
                "generation": "unknown",
                "defined_in": "Fine",
                "called": "fit ends",
            },
        ],
        "mistakes": [],
        "notes": [],
    }


def test_older_generations_are_named_and_are_no_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_callbacks:Older")
    assert status == 0
    assert [(one["hook"], one["generation"], one["defined_in"]) for one in data["overrides"]] == [
        ("setup", "2.x", "Fine"),
        ("on_fit_start", "2.x", "Fine"),
        ("on_train_batch_end", "2.x", "Fine"),
        ("on_train_epoch_end", "1.0-1.2", "Older"),
        ("on_epoch_end", "1.7 and before", "Older"),
        ("on_fit_end", "unknown", "Fine"),
    ]
    assert data["mistakes"] == []
    assert data["notes"] == [
        "Older.on_coffee_break is no hook; it is not called unless by your own code.",
        "Older.on_train_epoch_end takes (trainer, pl_module, outputs), the signature of 1.0-1.2; "
        "use on_train_epoch_end without outputs instead.",
        "Older.on_epoch_end is a hook of 1.7 and before; "
        "use on_train_epoch_end, on_validation_epoch_end or on_test_epoch_end instead.",
    ]


def test_the_mistakes_of_a_callback(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_callbacks.py:Wrong")
    assert status == 1
    assert data["mistakes"] == [
        "Wrong.on_train_batch_ends is no hook and would never be called. Did you mean 'on_train_batch_end'? "
        "Rename it, or let its name not begin with 'on_'.",
        "Wrong.teardwon is no hook. Did you mean 'teardown'?",
        "Wrong.on_fit_start takes (module), but gets (trainer, pl_module). "
        "Give it these arguments, or fewer of them under these names.",
        "Wrong.on_test_end is 3, which cannot be called, but on_test_end is a hook. Make it a method, or rename it.",
        "Wrong.position is 'monitr'; expected one of 'first', 'normal', 'monitor', 'checkpoint'. "
        "Did you mean 'monitor'?",
        "Wrong.runs_after holds 3, which is neither a callback class nor a name. "
        "Give a tuple of classes, class names or names of callbacks.",
    ]


def test_the_trainer_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Mend one mistake after the other as the Trainer raises them: they are those that the command showed at once."""
    wrong: Any = imported("own_callbacks.py:Wrong", (Callback,))
    mistakes = shown(capsys, "own_callbacks:Wrong")[1]["mistakes"]
    with pytest.warns(UserWarning, match="teardwon") as warned:
        Trainer(callbacks=[type("Wrong", (Callback,), {"teardwon": wrong.teardwon})()], logger=False)
    said = [str(warning.message) for warning in warned]
    for mend in ("on_train_batch_ends", "on_fit_start", "on_test_end", "runs_after", "position"):
        with pytest.raises(MisconfigurationException) as raised:
            Trainer(callbacks=[wrong()], logger=False)
        said.append(str(raised.value))
        delattr(wrong, mend)
    Trainer(callbacks=[wrong()], logger=False)
    assert sorted(said) == sorted(mistakes)


def test_the_mistakes_of_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_modules:Net")
    assert (status, data["kind"], data["position"], data["notes"]) == (1, "module", None, [])
    assert [(one["hook"], one["generation"]) for one in data["overrides"]] == [
        ("configure_optimizers", "2.x"),
        ("optimizer_step", "none"),
        ("training_step", "2.x"),
        ("on_validation_epoch_end", "none"),
    ]
    assert data["mistakes"] == [
        "Net.validation_epoch_end is never called: it was a method of 1.x. Instead, collect what it needs in "
        "validation_step and use it in on_validation_epoch_end.",
        "Net.optimizer_step takes (epoch), but gets (epoch, batch_idx, optimizer, optimizer_closure). "
        "Give it these arguments.",
        "Net.on_validation_epoch_end takes (outputs), but gets (). Let it take none.",
    ]


def test_what_a_module_lacks_for_fit_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_modules:Base")
    assert (status, data["mistakes"]) == (0, [])
    assert [note.split(",")[0] for note in data["notes"]] == [
        "Base has no training_step", "Base has no configure_optimizers",
    ]  # fmt: skip


def test_the_mistakes_of_a_datamodule(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_modules:Data")
    assert (status, data["kind"]) == (1, "datamodule")
    assert [one["hook"] for one in data["overrides"]] == ["setup", "train_dataloader"]
    assert data["mistakes"] == [
        "Data.vla_dataloader is no hook. Did you mean 'val_dataloader'?",
        "Data.setup takes (), but gets (stage). Give it these arguments.",
    ]
    assert data["notes"] == ["Data.on_fit_start is never called here: it is a hook of callbacks and the module."]


def test_the_trainer_says_the_same_of_a_datamodule() -> None:
    data: Any = imported("own_modules.py:Data", ())
    del data.on_fit_start, data.vla_dataloader
    with pytest.raises(MisconfigurationException) as raised:
        Trainer(max_epochs=1, logger=False, accelerator="cpu").fit(BoringModule(), datamodule=data())
    assert str(raised.value) == "Data.setup takes (), but gets (stage). Give it these arguments."


def test_an_instance_is_looked_at_with_what_it_has_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = shown(capsys, "own_callbacks:ready")
    assert status == 0
    assert [(one["hook"], one["defined_in"]) for one in data["overrides"]] == [("on_fit_end", "the instance")]


def test_it_is_printed_as_a_table_with_the_mistakes_beneath(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "--of", "own_modules.py:Data"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "own_modules.py:Data: a datamodule"
    assert [" ".join(line.replace("│", " ").split()) for line in lines[2:6:2]] == [
        "hook takes generation defined in called",
        "setup () none Data an entry point begins: fit, validate, test or predict",
    ]
    assert [line.split(":")[0] for line in lines[7:]] == ["mistake", "mistake", "note"]
    assert main(["hooks", "--of", "leyden:Callback"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "leyden:Callback: a callback, position 'normal'", "It overrides no hook.", "No mistakes.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("own_callbacks:nothing", "own_callbacks:nothing is an int; expected a Callback, a LightningModule or a"),
        ("own_callbacks:Unrelated", "is the class Unrelated; expected"),
        ("own_callbacks:Fein", "has no 'Fein'. Did you mean 'Fine'? What has hooks there: Fine, Older, Wrong."),
    ],
)
def test_what_has_no_hooks(target: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "--of", target]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert says in captured.err


def test_the_families_have_no_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    import leyden.callbacks

    for name in leyden.callbacks.__all__:
        status, data = shown(capsys, f"leyden.callbacks:{name}")
        assert (status, data["mistakes"], data["notes"]) == (0, [], []), name
