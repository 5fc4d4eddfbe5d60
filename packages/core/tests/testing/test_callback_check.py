"""The kit's front: the table, what it is given, what it leaves alone, and the tests that pytest collects."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.testing import BoringModule, ManualModule, callback_tests, check_callback
from leyden.testing.claims import Claims
from leyden.testing.properties import PROPERTIES


class CountBatches(Callback):
    """A good one."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


class Forgets(CountBatches):
    """Does not load what it saves."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class LogsTensors(Callback):
    """Logs tensors at every batch, which `self.log` takes as they are, and has an optimizer of its own."""

    def __init__(self) -> None:
        self.optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/tmp")  # as torch does with the first one of a process

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.log("of_batch", outputs["loss"] + 1)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.log("of_validation", torch.ones(2, device=pl_module.device).mean() + next(pl_module.parameters()).mean())


test_count_batches = callback_tests(CountBatches, only_watches=True)


def test_a_good_callback_holds_everything() -> None:
    report = check_callback(CountBatches, only_watches=True)
    assert report
    assert list(report) == list(PROPERTIES)
    assert {result.outcome for result in report.values()} == {"holds"}


def test_logging_tensors_is_no_waiting_and_an_optimizer_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    report = check_callback(LogsTensors, only_watches=True, calls_per_step=100)
    assert report


def test_the_table_names_what_is_broken_and_why() -> None:
    report = check_callback(Forgets)
    assert not report
    assert report.broken == ["state_round_trip"]
    assert str(report).startswith("Forgets: 1 of 13 properties is broken\n")
    assert report["state_round_trip"].reason.endswith("a fresh callback has loaded it: ['batches']: 0 is not 12")
    assert report["resume"].outcome == "not checked"
    reason = report["state_round_trip"].reason
    assert repr(report) == f"Forgets: 1 of 13 properties is broken. state_round_trip: {reason}"


def test_the_process_is_left_as_it_was(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), os.getcwd(), dict(os.environ), list(warnings.filters)
    check_callback(CountBatches)
    after = torch.get_rng_state(), random.getstate(), os.getcwd(), dict(os.environ), list(warnings.filters)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


class Rude(Callback):
    """Leaves the process as nobody should."""

    def on_train_start(self, *_: Any) -> None:
        print("hello")
        warnings.warn("hello", stacklevel=1)
        warnings.simplefilter("ignore")
        os.environ["LEYDEN_RUDE"] = "1"
        sys.path.append("rude")
        torch.autograd.set_detect_anomaly(True)
        logging.getLogger("leyden").addHandler(logging.NullHandler())
        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
        torch.nn.functional.cross_entropy = partial(torch.nn.functional.cross_entropy)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.chdir("..")


def test_what_a_callback_leaves_in_the_process_is_put_back(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def seen() -> list[Any]:
        hooks, handlers = torch.nn.modules.module._global_forward_pre_hooks, logging.getLogger("leyden").handlers
        return [
            os.getcwd(), dict(os.environ), list(warnings.filters), list(sys.path), torch.is_anomaly_enabled(),
            list(hooks), list(handlers), torch.nn.functional.cross_entropy,
        ]  # fmt: skip

    handler, before = signal.getsignal(signal.SIGUSR1), seen()
    assert check_callback(Rude).broken == ["exceptions"]
    assert seen() == before
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


class Exits(Callback):
    def on_train_start(self, *_: Any) -> None:
        raise SystemExit(3)


def test_one_whose_fit_raises_is_told_once() -> None:
    report = check_callback(Exits)
    assert report.broken == ["stages"]
    assert report["stages"].reason.startswith("a plain fit raises SystemExit: 3 (test_callback_check.py:")
    assert report["resume"].reason == "a plain fit raises: mend stages first"


class NoValidation(LightningModule):
    """Has a training step and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).sum()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return [torch.ones(2, 4)] * 3


@pytest.mark.parametrize(
    ("module", "trainer"),
    [
        (BoringModule, {}),
        (ManualModule, {"accumulate_grad_batches": 1}),
        (NoValidation, {"limit_val_batches": 0}),
        (BoringModule, {"logger": False, "max_epochs": None, "max_steps": 3}),
    ],
    ids=["two batches an epoch", "two optimizers by hand", "no validation", "a number of steps"],
)
def test_any_module_and_any_trainer_will_do(module: Any, trainer: dict[str, Any]) -> None:
    report = check_callback(CountBatches, module=module, trainer=trainer)
    assert report, str(report)
    assert set(report.not_checked) <= {"only_watches"}


def test_what_is_read_from_a_fit_needs_one() -> None:
    report = check_callback(CountBatches, stages=["predict"])
    assert set(report) - set(report.not_checked) == {"constructor", "hooks", "stages"}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"only_watch": True}, "check_callback() has no argument 'only_watch'. Did you mean 'only_watches'?"),
        ({"without": {"resumes": "slow"}}, "without= has 'resumes', which there is not. Did you mean 'resume'?"),
        ({"without": {"resume": ""}}, "without={'resume': ''}: expected the reason"),
        ({"stages": ["fitting"]}, "stages= has 'fitting'"),
        ({"trainer": {"callbacks": []}}, "the callback that is checked is the one that `make` returns"),
        ({"reports_every_n_steps": 0}, "reports_every_n_steps=0: expected an int >= 1"),
        ({"varies": "time"}, "varies='time': expected a list of parts of names"),
    ],
)
def test_mistakes_in_what_is_claimed_are_told_at_once(what: dict[str, Any], message: str) -> None:
    for check in (check_callback, callback_tests):
        with pytest.raises(MisconfigurationException) as caught:
            check(CountBatches, **what)
        assert message in str(caught.value)


def test_an_instance_is_no_way_to_make_one() -> None:
    with pytest.raises(MisconfigurationException, match="expected a callable that returns a fresh callback"):
        check_callback(CountBatches())  # type: ignore[arg-type]


def test_the_page_tells_of_every_property_and_every_argument() -> None:
    page = (Path(__file__).parents[4] / "docs" / "testing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    arguments = [name for name in Claims.__dataclass_fields__ if name != "make"]
    assert rows == [*PROPERTIES, *arguments]
    told = re.findall(r"- ``(\w+)``:", check_callback.__doc__ or "")
    assert told == arguments


def test_a_callback_that_goes_to_another_folder_has_nothing_of_it_copied(tmp_path: Path) -> None:
    class Wanders(CountBatches):
        def on_train_start(self, *_: Any) -> None:
            os.chdir(elsewhere)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.mkfifo(elsewhere / "pipe")  # which no copy could be made of
    report = check_callback(Wanders)
    assert report["resume"].outcome == "holds", report
    assert [path.name for path in elsewhere.iterdir()] == ["pipe"]
