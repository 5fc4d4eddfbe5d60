"""`leyden check`: the kit's table of a callback that is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leyden.cli import main
from leyden.testing.properties import PROPERTIES

CALLBACKS = """
import leyden

class Reads(leyden.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs):
        self.loss = outputs["loss"].item()

class Draws(leyden.Callback):
    def __init__(self, every):
        self.every = every

    def on_train_start(self, trainer, pl_module):
        import random
        random.random()

def draws():
    return Draws(every=2)

ready = Reads()
"""


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["check", *arguments])
    return status, *capsys.readouterr()


@pytest.fixture(autouse=True)
def _file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CALLBACKS)


def test_what_is_broken_stands_in_a_table_and_in_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = check(capsys, "mine.py:Reads")
    assert (status, err) == (1, "")
    assert out.startswith("Reads: 1 of 13 properties is broken\n")
    assert "on_train_batch_end waits for the device in Tensor.item (mine.py:6)" in " ".join(out.split())


def test_what_is_claimed_is_checked_and_what_is_not_to_be_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "mine.py:draws", "--only-watches", "--without", "cost=not looked at", "--json")
    found = json.loads(out)
    assert status == 1
    assert found["callback"] == "Draws"
    results = {row["property"]: row["result"] for row in found["properties"]}
    assert list(results) == list(PROPERTIES)
    assert {name for name, result in results.items() if result != "holds"} == {"only_watches", "cost"}
    assert results["cost"] == "not checked"


def test_one_that_reports_at_each_step_may_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "mine.py:Reads", "--reports-every-n-steps", "1", "--calls-per-step", "0")
    assert status == 1
    assert "Reads: 1 of 13 properties is broken" in out
    assert "at most 0 are allowed" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py:ready"], "mine.py:ready is a Reads; expected a class of callbacks, or a function"),
        (["mine.py:Read"], "mine.py has no 'Read'. Did you mean 'Reads'?"),
        (["mine.py:Reads", "--without", "costs=slow"], "Did you mean 'cost'?"),
        (["mine.py:Reads", "--without", "cost"], "expected the reason"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = check(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
