"""Callbacks of the environment that raise: reported once, switched off, and everything else goes on."""

from __future__ import annotations

import functools
import logging
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, Checkpoint, LightningDataModule, LightningModule, SIGTERMException, Trainer
from leyden.discovery import SwitchedOff
from leyden.errors import MisconfigurationException
from leyden.hooks.contract import HOOKS
from leyden.testing import BoringModule

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site

OFFERED: list[Callback] = []
"""What the factory of the distribution `acme` returns."""


def make_callbacks() -> list[Callback]:
    return list(OFFERED)


@pytest.fixture
def offer(site: Site) -> Callable[..., None]:
    """Let the distribution ``acme 1.2`` offer callbacks."""
    site.add("acme", f"from {__name__} import make_callbacks", "acme = acme:make_callbacks", version="1.2")

    def set_offered(*callbacks: Callback) -> None:
        OFFERED[:] = callbacks

    return set_offered


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 2, "logger": False, "accelerator": "cpu", "num_sanity_val_steps": 1}
    return Trainer(callbacks=list(callbacks), **(usual | settings))


class Notes(Callback):
    """A user's, that notes every hook."""

    def __init__(self) -> None:
        self.events: list[str] = []


def noting(name: str) -> Callable[..., Any]:
    def hook(self: Notes, *args: Any) -> Any:
        self.events.append(name)
        return {"n": 1} if name == "state_dict" else None

    return hook


TODAY = [hook.name for hook in HOOKS.values() if hook.callbacks and hook.generation is None]
for name in TODAY:
    setattr(Notes, name, noting(name))


class Faulty(Notes):
    """Notes every hook, and raises in one of them."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where = where
        raised = functools.partial(self._raise, where, error)
        setattr(self, where, raised)

    def _raise(self, where: str, error: BaseException, *args: Any) -> None:
        self.events.append(where)
        raise error


def run_everything(made: Trainer, path: Path) -> tuple[list[Tensor], BoringModule]:
    """Fit, save, restore, test, predict; return the weights."""
    torch.manual_seed(3)
    module = BoringModule()
    made.fit(module)
    made.save_checkpoint(path)
    made.fit(module, ckpt_path=path)
    made.validate(module, verbose=False)
    made.test(module, verbose=False)
    made.predict(module)
    return [parameter.detach().clone() for parameter in module.parameters()], module


IN_A_RUN = [name for name in TODAY if name != "on_exception"]


@pytest.mark.parametrize("hook", IN_A_RUN)
def test_one_that_raises_in_any_hook_is_reported_once_and_switched_off(
    offer: Callable[..., None], hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = Notes()
    expected, _ = run_everything(trainer(straight, discover_callbacks=False), tmp_path / "straight.ckpt")

    faulty, users = Faulty(hook, RuntimeError(f"no {hook}")), Notes()
    offer(faulty)
    caplog.set_level(logging.WARNING, "leyden")
    made = trainer(users)
    with pytest.warns(UserWarning, match=r"acme 1\.2") as caught:
        got, _ = run_everything(made, tmp_path / "faulty.ckpt")
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert users.events == straight.events
    own = [str(one.message) for one in caught if "acme" in str(one.message)]
    assert own == [
        f"The callback Faulty of acme 1.2 raised RuntimeError: no {hook} in {hook} and is switched off; the run goes "
        "on. Its traceback is in the log 'leyden'."
    ]
    assert faulty.events.count(hook) == 1
    assert faulty.events[-1] == hook
    assert made.callbacks == [users]
    assert made.discovered.switched_off == [
        SwitchedOff("Faulty", "acme 1.2", hook, f"RuntimeError: no {hook}", "Faulty")
    ]
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == f"no {hook}"


def test_on_exception_is_isolated_too(offer: Callable[..., None]) -> None:
    class Stops(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("the user's own")

    offer(Faulty("on_exception", RuntimeError("mine")))
    made = trainer(Stops())
    with (
        pytest.warns(UserWarning, match=r"Faulty of acme 1\.2 raised RuntimeError: mine in on_exception"),
        pytest.raises(ValueError, match=r"^the user's own") as caught,
    ):
        made.fit(BoringModule())
    assert [type(callback) for callback in made.callbacks] == [Stops]
    assert not [line for line in caught.value.__notes__ if "Faulty" in line]


class Older(Callback):
    """Has hooks of older generations."""

    def on_init_end(self, trainer: Trainer) -> None:
        raise RuntimeError("at once")

    def on_batch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("never")


@pytest.mark.filterwarnings("ignore:Older:DeprecationWarning")
def test_hooks_of_older_generations_are_isolated(offer: Callable[..., None]) -> None:
    offer(Older())
    with pytest.warns(UserWarning, match="Older of acme 1.2 raised RuntimeError: at once in on_init_end"):
        made = trainer()
    made.fit(BoringModule())
    assert made.callbacks == []


@pytest.mark.parametrize("error", [SystemExit(2), MemoryError(), StopIteration(), torch.OutOfMemoryError("full")])
def test_whatever_it_raises(offer: Callable[..., None], error: BaseException) -> None:
    offer(Faulty("on_train_batch_start", error))
    made = trainer()
    with pytest.warns(UserWarning, match=type(error).__name__):
        made.fit(BoringModule())
    assert (made.global_step, made.callbacks) == (4, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SIGTERMException()], ids=lambda error: type(error).__name__)
def test_what_is_for_the_process_reaches_it(offer: Callable[..., None], error: BaseException) -> None:
    faulty = Faulty("on_train_batch_start", error)
    offer(faulty)
    made = trainer()
    with pytest.raises(type(error)):
        made.fit(BoringModule())
    assert made.callbacks == [faulty]


@pytest.mark.parametrize("form", ["function", "method", "partial", "object"])
def test_what_a_handler_of_a_signal_raises_is_for_the_process(offer: Callable[..., None], form: str) -> None:
    class Alarm(Exception):
        """A limit of the user's own, such as those of job schedulers."""

    class Handler:
        def method(self, *args: Any) -> None:
            raise Alarm

        def __call__(self, *args: Any) -> None:
            raise Alarm

    class Signalled(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    def function(*args: Any) -> None:
        raise Alarm

    handlers: dict[str, Any] = {
        "function": function,
        "method": Handler().method,
        "partial": functools.partial(function, 1),
        "object": Handler(),
    }
    offer(Signalled())
    before = signal.signal(signal.SIGUSR1, handlers[form])
    try:
        with pytest.raises(Alarm):
            trainer().fit(BoringModule())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_users_and_modules_callbacks_raise_as_ever(offer: Callable[..., None]) -> None:
    offer(Notes())
    with pytest.raises(RuntimeError, match=r"^mine"):
        trainer(Faulty("on_train_start", RuntimeError("mine")), discover_callbacks=True).fit(BoringModule())

    class Brings(BoringModule):
        def configure_callbacks(self) -> list[Callback]:
            return [Faulty("on_train_start", RuntimeError("the module's"))]

    offer()
    with pytest.raises(RuntimeError, match=r"^the module's"):
        trainer().fit(Brings())


class Saves(Callback):
    """Saves a checkpoint at the end of every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


class Raises(LightningDataModule):
    """A user's data module that cannot be saved."""

    def train_dataloader(self) -> Any:
        return BoringModule().train_dataloader()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        raise ValueError("the data module's")


class Unsaved(BoringModule):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        raise ValueError("the module's")


def test_what_the_users_hooks_raise_within_one_of_its_hooks_is_the_users(
    offer: Callable[..., None], tmp_path: Path
) -> None:
    offer(Saves(tmp_path))
    with pytest.raises(ValueError, match=r"^the callback's"):
        trainer(Faulty("state_dict", ValueError("the callback's"))).fit(BoringModule())
    with pytest.raises(ValueError, match=r"^the module's"):
        trainer().fit(Unsaved())
    with pytest.raises(ValueError, match=r"^the data module's"):
        trainer(limit_val_batches=0).fit(BoringModule(), datamodule=Raises())


def test_what_it_calls_of_the_module_by_itself_is_its_own_doing(offer: Callable[..., None]) -> None:
    class Looks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module(torch.ones(3, 3, 3))

    offer(Looks())
    made = trainer()
    with pytest.warns(UserWarning, match="Looks of acme 1.2 raised RuntimeError"):
        made.fit(BoringModule())
    assert made.global_step == 4


def test_one_that_cannot_prepare_the_module_is_switched_off(offer: Callable[..., None]) -> None:
    class Prepares(Callback):
        def prepare_module(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
            raise RuntimeError("no layer to replace")

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise AssertionError("it is off")

    offer(Prepares())
    made = trainer()
    with pytest.warns(
        UserWarning, match="Prepares of acme 1.2 raised RuntimeError: no layer to replace in prepare_mod"
    ):
        made.fit(BoringModule())
    assert made.global_step == 4
    assert made.callbacks == []


@pytest.mark.parametrize("broken", ["state", "checkpoint", "half"])
def test_it_cannot_spoil_a_checkpoint(offer: Callable[..., None], tmp_path: Path, broken: str) -> None:
    class Spoils(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"n": object()} if broken == "state" else {}

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            if broken == "checkpoint":
                checkpoint["mine"] = object()
            if broken == "half":
                del checkpoint["state_dict"]
                raise RuntimeError("half way")

    offer(Spoils())
    made = trainer(Saves(tmp_path))
    with pytest.warns(UserWarning, match=r"Spoils of acme 1\.2 raised .* is switched off"):
        made.fit(BoringModule())
    saved = torch.load(tmp_path / "1.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {"layer.weight", "layer.bias"}
    assert ("mine" in saved, saved["callbacks"]) == (False, {})


def test_a_state_it_cannot_read_or_migrate_starts_it_not_at_all(offer: Callable[..., None], tmp_path: Path) -> None:
    class Stateful(Callback):
        state_version = 2

        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

    class Newer(Stateful):
        state_version = 3
        state_key = "test_a_state_it_cannot_read_or_migrate_starts_it_not_at_all.<locals>.Stateful"

        def migrate_state(self, state_dict: dict[str, Any], from_version: int) -> dict[str, Any]:
            raise RuntimeError(f"of {from_version}")

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise AssertionError("not reached")

    class Of1(Newer):
        state_version = 1

    offer(Stateful())
    first = trainer(max_epochs=1)
    first.fit(BoringModule())
    first.save_checkpoint(tmp_path / "a.ckpt")
    for newer, cause in ((Newer(), "RuntimeError: of 2 in migrate_state"), (Of1(), "MisconfigurationException")):
        offer(newer)
        second = trainer()
        with pytest.warns(UserWarning, match=cause):
            second.fit(BoringModule(), ckpt_path=tmp_path / "a.ckpt")
        assert (second.global_step, second.callbacks) == (4, [])


class Saver(Checkpoint):
    """A checkpoint callback whose disk is full now and then."""

    def __init__(self, folder: Path, full: list[int]) -> None:
        self.folder, self.full, self.saved = folder, full, list[int]()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.plan.when_done(functools.partial(self._save, trainer, trainer.current_epoch))

    def _save(self, trainer: Trainer, epoch: int) -> None:
        if epoch in self.full:
            raise RuntimeError(f"could not save epoch {epoch}")
        trainer.save_checkpoint(self.folder / f"{epoch}.ckpt")
        self.saved.append(epoch)


def test_a_checkpoint_callback_goes_on_and_every_failure_is_told(offer: Callable[..., None], tmp_path: Path) -> None:
    saver = Saver(tmp_path, full=[1, 2])
    offer(saver)
    made = trainer(max_epochs=5)
    with pytest.warns(UserWarning, match="Saver of acme") as caught:
        made.fit(BoringModule())
    assert [str(one.message) for one in caught] == [
        f"The callback Saver of acme 1.2 raised RuntimeError: could not save epoch {epoch} in on_train_epoch_end; a "
        "checkpoint may be missing. It goes on, and so does the run."
        for epoch in (1, 2)
    ]
    assert (saver.saved, made.callbacks, made.discovered.switched_off) == ([0, 3, 4], [saver], [])


def test_what_it_put_off_to_the_end_of_a_hook_is_isolated(offer: Callable[..., None]) -> None:
    class PutsOff(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.plan.when_done(self._later)

        def _later(self) -> None:
            raise RuntimeError("later")

    class AndRaises(PutsOff):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            super().on_train_batch_end(trainer)
            raise RuntimeError("at once")

    users = Notes()
    offer(PutsOff(), AndRaises())
    made = trainer(users)
    with pytest.warns(UserWarning, match="acme") as caught:
        made.fit(BoringModule())
    assert [str(one.message).partition(" in ")[0].rpartition(": ")[2] for one in caught] == ["at once", "later"]
    assert (made.global_step, made.callbacks) == (4, [users])


def test_a_bar_that_cannot_print_is_switched_off_and_the_text_printed(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Bar(Callback):
        role = "progress_bar"

        def print(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no terminal")

    class Prints(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            trainer.print("step", trainer.global_step, sep="=")

    offer(Bar())
    with pytest.warns(UserWarning, match=r"Bar of acme 1\.2 raised OSError: no terminal in print and is switched off"):
        trainer(Prints()).fit(BoringModule())
    assert capsys.readouterr().out == "step=0\nstep=1\nstep=2\nstep=3\n"


def test_warnings_that_are_errors_end_no_training(offer: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    offer(Faulty("on_train_start", RuntimeError("why")))
    made = trainer()
    with warnings.catch_warnings(action="error"), caplog.at_level(logging.WARNING, "leyden"):
        made.fit(BoringModule())
    assert made.global_step == 4
    assert caplog.records[0].getMessage().startswith("The callback Faulty of acme 1.2 raised RuntimeError: why in on_t")


def test_a_configured_one_is_isolated_and_named_with_its_line(site: Site) -> None:
    site.configure('\n[callbacks.EarlyStopping]\nmonitor = "no such metric"\n')
    made = trainer()
    with pytest.warns(UserWarning, match=r"EarlyStopping of leyden-callbacks-optim .*\(configured in leyden\.toml:2\)"):
        made.fit(BoringModule())
    assert made.global_step == 4
    with pytest.raises(MisconfigurationException, match="no such metric"):
        trainer(*Trainer(logger=False).callbacks, discover_callbacks=False).fit(BoringModule())


# -- what it costs --------------------------------------------------------------------------------------------------


class Cheap(Callback):
    def on_train_batch_start(self, *args: Any) -> None: ...
    def on_train_batch_end(self, *args: Any) -> None: ...
    def on_before_zero_grad(self, *args: Any) -> None: ...


class Gone(Notes):
    """Would be called at every hook."""

    def on_train_start(self, *args: Any) -> None:
        raise RuntimeError


def test_it_costs_one_call_a_hook_for_discovered_callbacks_and_none_for_others(
    offer: Callable[..., None], calls_per_step: Callable[[Callable[[], Trainer]], float]
) -> None:
    offer()
    users = calls_per_step(lambda: trainer(Cheap()))
    assert users == calls_per_step(lambda: trainer(Cheap(), discover_callbacks=False))
    offer(Cheap())
    assert calls_per_step(trainer) == users + 3
    offer(Gone())
    with pytest.warns(UserWarning, match="switched off"):
        gone = calls_per_step(trainer)
    assert gone == calls_per_step(lambda: trainer(discover_callbacks=False))
