"""Callbacks that the configuration names, with their arguments."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import leyden_checkpoint
import leyden_monitoring
import leyden_optim
from leyden import LightningModule, Trainer
from leyden.callback import Callback
from leyden.discovery import LeftOut
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_only
from leyden.testing import BoringModule

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site

VERSION = {"checkpoint": leyden_checkpoint, "monitoring": leyden_monitoring, "optim": leyden_optim}

KINDS = """
from __future__ import annotations
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Literal
from leyden.callback import Callback

if TYPE_CHECKING:
    from nowhere import Something

class Colour(Enum):
    RED = 1
    BLUE = "b"

class Base(Callback):
    def __init__(self, every_n_steps: int = 1, **rest: Any) -> None:
        self.every_n_steps, self.rest = every_n_steps, rest

class Kinds(Base):
    def __init__(
        self,
        length: timedelta | None = None,
        colour: Colour = Colour.RED,
        folder: Path | None = None,
        mode: Literal["min", "max"] = "min",
        scheduling: dict[int, float] | None = None,
        names: list[str] | tuple[str, ...] = (),
        ratio: float = 0.5,
        flag: bool = False,
        function: Callable[[int], int] | None = None,
        odd: Something | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.given = dict(length=length, colour=colour, folder=folder, mode=mode, scheduling=scheduling, names=names,
                          ratio=ratio, flag=flag, odd=odd)

@dataclass(eq=False)
class Data(Callback):
    limit: int
    unit: str = "GB"

class Plain(Callback): ...

class Broken(Callback):
    def __init__(self): raise OSError("no driver")

def make(): return []
"""


@pytest.fixture
def kinds(site: Site) -> Site:
    """A distribution that declares callbacks of its own."""
    names = ["Kinds", "Data", "Plain", "Broken"]
    site.add(
        "acme-kinds", KINDS, "kinds = acme_kinds:make", callbacks=[f"{name} = acme_kinds:{name}" for name in names]
    )
    return site


def only(site: Site) -> Any:
    (placed,) = site.discover().placed
    return placed.callback


def test_an_installed_callback_is_attached_with_its_arguments(kinds: Site) -> None:
    kinds.configure(
        """
[callbacks.Kinds]
length = "01:02:03:04"
colour = "blue"
folder = "a/b"
mode = "max"
scheduling = { 4 = 2, 8 = 0.5 }
names = ["one", "two"]
ratio = 1
flag = true
odd = "anything"
every_n_steps = 3
"""
    )
    callback = only(kinds)
    assert callback.given == {
        "length": timedelta(days=1, hours=2, minutes=3, seconds=4),
        "colour": sys.modules["acme_kinds"].Colour.BLUE,
        "folder": Path("a/b"),
        "mode": "max",
        "scheduling": {4: 2.0, 8: 0.5},
        "names": ["one", "two"],
        "ratio": 1.0,
        "flag": True,
        "odd": "anything",
    }
    assert (callback.every_n_steps, callback.rest) == (3, {})


def test_where_it_comes_from_is_told(kinds: Site, capsys: pytest.CaptureFixture[str]) -> None:
    kinds.configure("\n[callbacks.Plain]\nwhen = ['fit', 'test']\n")
    (placed,) = kinds.discover().placed
    assert (placed.source, placed.distribution, placed.where) == ("configured", "acme-kinds 1.0", "leyden.toml:2")
    (ordered,) = Trainer(logger=False).describe_callbacks()
    assert ordered.reason == "configured in leyden.toml:2; in fit and test only"
    assert "acme-kinds 1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("[callbacks.Kind]", 1, "[callbacks.Kind]: nothing installed here has a callback 'Kind'. Did you mean 'Kinds"),
        ("[callbacks.EarlyStoping]", 1, "nothing installed here has a callback 'EarlyStoping'. Did you mean 'EarlySto"),
        ("[callbacks.LambdaCallback]", 1, "nothing installed here has a callback 'LambdaCallback'."),
        ('[callbacks."os.path"]', 1, "a configuration names installed callbacks and never imports by a path"),
        ('[callbacks."acme_kinds:Kinds"]', 1, "a configuration names installed callbacks and never imports by a path"),
        ("[callbacks.Data]", 1, "[callbacks.Data] lacks limit, which Data needs."),
        ("[callbacks.Data]\nlimit = '3'", 2, "Data(limit='3'): expected an int."),
        ("[callbacks.Data]\nlimit = true", 2, "Data(limit=True): expected an int."),
        ("[callbacks.Data]\nlimit = 3\nunits = 'GB'", 3, "Data has no argument 'units'; it has limit, unit. Did you m"),
        ("[callbacks.Data]\nlimit = 3\nenable = true", 3, "Data has no argument 'enable'; it has limit, unit. Did you"),
        ("[callbacks.Plain]\nx = 1", 2, "Plain has no argument 'x'; it has none."),
        ("[callbacks.Kinds]\nlength = '1h'", 2, "Kinds(length='1h'): expected 'DD:HH:MM:SS' (days, hours, minutes"),
        ("[callbacks.Kinds]\ncolour = 'blu'", 2, "Kinds(colour='blu'): expected 'RED' or 'BLUE'. Did you mean 'BLUE'?"),
        ("[callbacks.Kinds]\nmode = 'mx'", 2, "Kinds(mode='mx'): expected 'min' or 'max'."),
        ("[callbacks.Kinds]\nfolder = 3", 2, "Kinds(folder=3): expected the path of a file or folder."),
        ("[callbacks.Kinds]\nflag = 1", 2, "Kinds(flag=1): expected true or false."),
        ("[callbacks.Kinds]\nnames = [1]", 2, "Kinds(names=[1]): expected a list, each of them a string."),
        ("[callbacks.Kinds]\nscheduling.x = 1", 2, "Kinds(scheduling={'x': 1}): its 'x': expected an int as the key."),
        ("[callbacks.Kinds]\nfunction = 'f'", 2, "Kinds(function='f'): expected Callable, which cannot be written in "),
        ("[callbacks.Plain]\nname = 3", 2, "name = 3: expected a string."),
        ("[callbacks.Plain]\n[callbacks.Timer]\ninterval = 'hour'", 3, "Timer(interval='hour'): expected 'step' or 'e"),
        ("[callbacks.Timer]\nduration = 'x'", 1, "[callbacks.Timer]: Timer(...) cannot work:\n  - duration='x': expec"),
        ("[callbacks.EarlyStopping]\nmonitor = ''", 1, "[callbacks.EarlyStopping]: EarlyStopping(...) cannot work"),
        ("[[callbacks.Plain]]\n[[callbacks.Plain]]\nx = 1", 3, "Plain has no argument 'x'"),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_at_the_trainer_with_file_and_line(
    kinds: Site, table: str, line: int, message: str
) -> None:
    kinds.configure(table)
    with pytest.raises(MisconfigurationException) as caught:
        Trainer(logger=False)
    assert str(caught.value).startswith(f"leyden.toml:{line}: ")
    assert message in str(caught.value)


def test_a_family_that_is_not_installed_is_named_with_its_installation(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "leyden_optim", None)  # not to be imported
    monkeypatch.delattr("leyden.callbacks.Timer", raising=False)
    site.configure("[callbacks.Timer]\n")
    with pytest.raises(
        MisconfigurationException, match=r"^leyden\.toml:1: \[callbacks\.Timer\]: Timer is in the "
    ) as e:
        site.discover()
    assert str(e.value).endswith("To install it: pip install leyden-callbacks-optim")
    site.configure("[callbacks.Timer]\nenabled = false\n")
    assert site.names() == []


def test_two_distributions_with_a_callback_of_one_name_are_an_error(kinds: Site) -> None:
    kinds.add("other", "", callbacks=["Plain = other:Plain"])
    kinds.configure("[callbacks.Plain]\n")
    with pytest.raises(MisconfigurationException, match=r"acme-kinds 1\.0 and other 1\.0 both have a callback of this"):
        kinds.discover()


def test_what_an_environment_lacks_is_reported_and_left_out(kinds: Site) -> None:
    """A driver that is missing on one machine is no mistake in the file."""
    kinds.add("gone", "raise ImportError('no extra')", callbacks=["Gone = gone:Gone", "Odd = found:make"])
    kinds.configure("[callbacks.Broken]\n[callbacks.Gone]\n[callbacks.Plain]\n")
    with pytest.warns(UserWarning, match="is left out") as caught:
        assert [type(p.callback).__name__ for p in kinds.discover().placed] == ["Plain"]
    assert [str(one.message) for one in caught] == [
        "Broken of acme-kinds 1.0 is left out: [callbacks.Broken] (leyden.toml:1) failed with OSError: no driver",
        "Gone of gone 1.0 is left out: [callbacks.Gone] (leyden.toml:2) failed with ImportError: no extra",
    ]
    kinds.configure("[discovery]\nstrict = true\n[callbacks.Broken]\n")
    with pytest.raises(MisconfigurationException, match=r"Broken of acme-kinds 1\.0 is left out"):
        kinds.discover()


def test_several_of_a_class_are_an_array_of_tables(kinds: Site) -> None:
    kinds.configure(
        '[[callbacks.EarlyStopping]]\nmonitor = "val_loss"\n[[callbacks.EarlyStopping]]\nmonitor = "acc"\nmode = "max"'
    )
    callbacks: list[Any] = Trainer(logger=False).callbacks
    assert [one.monitor for one in callbacks] == ["val_loss", "acc"]
    kinds.configure('[[callbacks.EarlyStopping]]\nmonitor = "a"\n[[callbacks.EarlyStopping]]\nmonitor = "a"')
    with pytest.raises(
        MisconfigurationException, match=r"^leyden\.toml:3: \[callbacks\.EarlyStopping\]: Two callbacks"
    ):
        Trainer(logger=False)
    kinds.configure(
        '[[callbacks.EarlyStopping]]\nmonitor = "a"\n[[callbacks.EarlyStopping]]\nmonitor = "a"\nname = "second"'
    )
    assert [one.name for one in Trainer(logger=False).callbacks] == [None, "second"]


def test_a_table_stands_in_for_what_a_factory_brings(site: Site) -> None:
    code = "from found import *\ndef make(): return [Watch(), Bar()]"
    site.add("one", code, "x = one:make", callbacks=["Watch = found:Watch", "OtherBar = found:OtherBar"])
    site.configure('[callbacks.Watch]\nwhat = "acc"\n')
    found = site.discover()
    assert [(type(p.callback).__name__, p.source) for p in found.placed] == [
        ("Watch", "configured"),
        ("Bar", "discovered"),
    ]
    assert found.left_out == [LeftOut("Watch", "one 1.0", "[callbacks.Watch] takes its place (leyden.toml:1)")]
    site.configure("[callbacks.OtherBar]\n")
    assert site.names() == ["OtherBar", "Watch"]
    site.configure("[callbacks.Watch]\nenabled = false\n")
    assert site.names() == ["Bar"]


def test_the_users_own_wins(site: Site) -> None:
    site.add("one", "", callbacks=["Watch = found:Watch", "Bar = found:Bar", "Saver = found:Saver"])
    site.configure("[callbacks.Watch]\n[callbacks.Bar]\n[callbacks.Saver]\n")
    assert site.names() == ["Watch", "Bar", "Saver"]
    assert site.names([site.make("Watch")]) == ["Bar", "Saver"]
    assert site.names([site.make("Watch", "acc")]) == ["Watch", "Bar", "Saver"]
    assert site.names([site.make("OtherBar")]) == ["Watch", "Saver"]
    assert site.names([site.make("Saver")]) == ["Watch", "Bar"]
    assert site.names(enable_progress_bar=False, enable_checkpointing=False) == ["Watch"]


def test_what_was_asked_for_by_name_stays_beside_other_checkpoints(site: Site) -> None:
    code = "from found import *\nclass Other(Checkpoint): ...\ndef make(): return [Saver()]"
    site.add("one", code, "x = one:make", callbacks=["Other = one:Other"])
    site.configure("[callbacks.Other]\n")
    assert site.names() == ["Other", "Saver"]
    assert site.names([site.make("Saver")]) == ["Other"]


def test_the_environment_variable_holds_for_the_configuration_too(kinds: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds.configure("[discovery]\nallow = []\n[callbacks.Plain]\n[callbacks.Timer]\n")
    assert kinds.names() == ["Plain", "Timer"]  # asked for by name, in the same file
    for value, names in {
        "only:Timer": ["Timer"],
        "only:acme-kinds": ["Plain"],
        "only:kinds": ["Plain"],
        "without:plain": ["Timer"],
        "off": [],
    }.items():
        monkeypatch.setenv("LEYDEN_CALLBACKS", value)
        assert kinds.names() == names


def test_one_may_be_for_the_first_process_alone(kinds: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds.configure("[callbacks.Plain]\nrank_zero_only = true\n")
    assert kinds.names() == ["Plain"]
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert kinds.discover().left_out == [
        LeftOut("Plain", "the configuration", "rank_zero_only (leyden.toml:1), and this is rank 1")
    ]
    assert kinds.names() == []


class Noting(Callback):
    """Notes its hooks; declared by a distribution of the test below."""

    events: list[str]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.events.append(f"setup {stage}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append("on_validation_start")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append("on_test_start")


def test_when_restricts_the_entry_points(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("one", f"from {Noting.__module__} import Noting", callbacks=["Noting = one:Noting"])
    for when, events in {
        "['fit']": ["setup fit", "on_validation_start", "on_validation_start"],
        "['validate', 'test']": ["setup validate", "on_validation_start", "setup test", "on_test_start"],
        "['predict']": ["setup predict"],
    }.items():
        monkeypatch.setattr(Noting, "events", [], raising=False)
        site.configure(f"[callbacks.Noting]\nwhen = {when}\n")
        trainer = Trainer(logger=False, max_epochs=1, accelerator="cpu")
        module = BoringModule()
        trainer.fit(module)
        trainer.validate(module, verbose=False)
        trainer.test(module, verbose=False)
        trainer.predict(module)
        assert Noting.events == events
        assert [type(callback).__name__ for callback in trainer.callbacks] == ["Noting"]


def test_settings_reach_a_factory(site: Site) -> None:
    code = "from found import *\ndef make(settings): return [Watch(**settings)]\ndef none(): return []"
    site.add("one", code, "watch = one:make", "none = one:none")
    site.configure('[discovery.settings.watch]\nwhat = "acc"\n')
    (placed,) = site.discover().placed
    assert vars(placed.callback)["what"] == "acc"
    site.configure("[discovery.settings.wach]\n")
    with pytest.raises(
        MisconfigurationException, match=r"^leyden\.toml:1: .*there are none, watch\. Did you mean 'watch'"
    ):
        site.discover()
    site.configure("[discovery.settings.none]\nx = 1\n")
    with pytest.raises(
        MisconfigurationException,
        match=r"^leyden\.toml:1: \[discovery\.settings\.none\]: the factory one:none takes no settings; remove",
    ):
        site.discover()


def test_a_factory_that_refuses_its_settings_is_an_error_with_file_and_line(site: Site) -> None:
    code = (
        "from leyden.errors import MisconfigurationException\n"
        "def make(settings): raise MisconfigurationException(f'no {settings}')"
    )
    site.add("one", code, "watch = one:make")
    site.configure("\n[discovery.settings.watch]\nx = 1\n")
    with pytest.raises(
        MisconfigurationException, match=r"^leyden\.toml:2: \[discovery\.settings\.watch\]: no \{'x': 1\}$"
    ):
        site.discover()
