from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback, Trainer
from leyden.errors import MisconfigurationException
from leyden.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler, make_profiler
from leyden.rank_zero import rank_zero_only
from leyden.testing import BoringModule


class Slow(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None: ...

    def on_train_start(self, trainer: Any, pl_module: Any) -> None: ...


class Module(BoringModule):
    def on_train_start(self) -> None: ...


def fit(profiler: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, profiler=profiler, callbacks=Slow(), discover_callbacks=False
    )
    trainer.fit(Module(batches={"train": 6, "val": 2}))
    return trainer


# -- the base -----------------------------------------------------------------------------------------------------


class Noting(Profiler):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.events: list[str] = []

    def start(self, action_name: str) -> None:
        self.events.append(f"+{action_name}")

    def stop(self, action_name: str) -> None:
        self.events.append(f"-{action_name}")

    def summary(self) -> str:
        return " ".join(self.events)


def test_a_profiler_of_one_s_own_sees_hooks_and_actions() -> None:
    profiler = Noting()
    fit(profiler)
    expected = {
        "next(train_dataloader)": 7, "training_step": 6, "backward": 6, "optimizer_step": 6, "validation_step": 4,
        "next(val_dataloader)": 5, "Slow.on_train_batch_end": 6, "Slow.on_train_start": 1, "Module.on_train_start": 1,
    }  # fmt: skip
    counts = {name: profiler.events.count(f"+{name}") for name in expected}
    assert counts == {name: profiler.events.count(f"-{name}") for name in expected}
    expected["next(train_dataloader)"] = counts["next(train_dataloader)"]  # whether the end is asked for is the loop's
    expected["next(val_dataloader)"] = counts["next(val_dataloader)"]
    assert counts == expected
    assert counts["next(train_dataloader)"] in (6, 7)


def test_a_block_is_stopped_also_when_it_raises() -> None:
    profiler = Noting()
    with pytest.raises(RuntimeError, match="inside"), profiler.profile("block"):
        raise RuntimeError("inside")
    with pytest.raises(ZeroDivisionError):
        profiler.wrap_action("call", lambda: 1 / 0)()
    assert profiler.events == ["+block", "-block", "+call", "-call"]


def test_an_iterator_s_every_step_is_measured() -> None:
    profiler = Noting()
    assert list(profiler.wrap_iterator("next", [None, 2])) == [None, 2]
    assert profiler.events == ["+next", "-next"] * 3


def test_the_report_goes_to_the_terminal_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kwargs in ({}, {"dirpath": tmp_path / "a", "filename": "times"}, {"dirpath": tmp_path / "a"}):
        profiler = Noting(**kwargs)
        profiler.start("x")
        profiler.describe()
    assert capsys.readouterr().out == "+x\n"
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == {
        "times.txt": "+x\n",
        "Noting.txt": "+x\n",
    }


def test_only_the_first_process_reports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    profiler = Noting()
    profiler.start("x")
    profiler.describe()
    Profiler().describe()
    assert capsys.readouterr().out == ""


# -- simple -------------------------------------------------------------------------------------------------------


def test_simple_prints_a_table_per_hook_and_per_callback(capsys: pytest.CaptureFixture[str]) -> None:
    fit("simple")
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    second = rows.index(["callback or module", "hook", "calls", "mean s", "total s", "of run"])
    assert rows[0] == ["hook or action", "calls", "mean s", "total s", "of run"]
    actions = {row[0]: int(row[1]) for row in rows[1:second]}
    owned = {(row[0], row[1]): int(row[2]) for row in rows[second + 1 :]}
    assert actions["on_train_batch_end"] == actions["training_step"] == actions["backward"] == 6
    assert actions["on_train_start"] == 2
    assert owned == {
        ("Slow", "on_train_batch_end"): 6,
        ("Slow", "on_train_start"): 1,
        ("Module", "on_train_start"): 1,
    }
    totals = [float(row[3]) for row in rows[1:second]]
    assert totals == sorted(totals, reverse=True)


def test_simple_starts_anew_after_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    profiler = SimpleProfiler()
    load = profiler.wrap_action("load", int)
    load()
    profiler.describe()
    load()
    assert profiler.recorded["", "load"][0] == 1
    assert "load" in capsys.readouterr().out


def test_simple_measures_blocks_and_refuses_mismatches() -> None:
    profiler = SimpleProfiler()
    with profiler.profile("mine"):
        pass
    assert profiler.recorded["", "mine"][0] == 1
    with pytest.raises(ValueError, match="'x' was stopped but never started"):
        profiler.stop("x")
    profiler.start("x")
    with pytest.raises(ValueError, match="'x' was started already"):
        profiler.start("x")


# -- advanced -----------------------------------------------------------------------------------------------------


def test_advanced_names_functions_per_action(capsys: pytest.CaptureFixture[str]) -> None:
    fit("advanced")
    out = capsys.readouterr().out
    assert "Profile of training_step" in out
    assert "Profile of Slow.on_train_batch_end" in out
    assert "(training_step)" in out


def test_advanced_takes_actions_within_actions() -> None:
    profiler = AdvancedProfiler()
    with profiler.profile("outer"):
        sorted([2, 1])
        with profiler.profile("inner"):
            max([2, 1])
    inner, outer = (profiler.summary().split("Profile of ")[i] for i in (2, 1))
    assert inner.startswith("inner")
    assert "max" in inner
    assert "sorted" in outer
    with pytest.raises(ValueError, match="'outer' was stopped"):
        profiler.stop("outer")


def test_advanced_dumps_stats(tmp_path: Path) -> None:
    profiler = AdvancedProfiler(dirpath=tmp_path, dump_stats=True)
    with profiler.profile("next(x)"):
        max([2, 1])
    profiler.describe()
    assert {path.name for path in tmp_path.iterdir()} == {"AdvancedProfiler.txt", "next_x_.prof"}
    with pytest.raises(MisconfigurationException, match="needs a dirpath"):
        AdvancedProfiler(dump_stats=True)


# -- pytorch ------------------------------------------------------------------------------------------------------


def test_pytorch_names_operators_and_actions(capsys: pytest.CaptureFixture[str]) -> None:
    fit(PyTorchProfiler(row_limit=-1, activities=[torch.profiler.ProfilerActivity.CPU]))
    out = capsys.readouterr().out
    assert "aten::linear" in out
    assert "training_step" in out


def test_pytorch_records_all_without_a_schedule_and_writes_a_trace(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path, "run", schedule=None, row_limit=-1)
    fit(profiler)
    table = (tmp_path / "run.txt").read_text()
    assert all(name in table for name in ("training_step", "backward", "optimizer_step", "Slow.on_train_batch_end"))
    assert json.loads((tmp_path / "run.trace.json").read_text())["traceEvents"]
    assert profiler.summary() == ""


def test_pytorch_refuses_to_stop_what_was_not_started() -> None:
    with pytest.raises(ValueError, match="'x' was stopped but never started"):
        PyTorchProfiler().stop("x")


# -- the argument -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("simple", SimpleProfiler), ("Advanced", AdvancedProfiler), ("pytorch", PyTorchProfiler), (None, type(None))],
)
def test_profilers_have_names(name: str | None, kind: type) -> None:
    assert type(make_profiler(name)) is kind


def test_a_profiler_is_taken_as_it_is() -> None:
    profiler = SimpleProfiler()
    assert make_profiler(profiler) is profiler


@pytest.mark.parametrize(("given", "hint"), [("simpel", "Did you mean 'simple'"), (True, "profiler=True")])
def test_other_profilers_are_errors(given: Any, hint: str) -> None:
    with pytest.raises(MisconfigurationException, match=hint):
        make_profiler(given)
