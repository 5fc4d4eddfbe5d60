"""What is attached of what installed distributions offer."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import pytest
import torch

from leyden import Trainer
from leyden.callback import Callback, Checkpoint
from leyden.discovery import LeftOut
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site


class OwnCheckpoint(Checkpoint):
    """A user's."""


class OwnBar(Callback):
    """A user's progress bar, of no type that is discovered."""

    role = "progress_bar"


def left_out(site: Site, *given: Callback, **switches: bool) -> list[tuple[str, str]]:
    return [(one.callback, one.reason) for one in site.discover(given, **switches).left_out]


def test_factories_attach_in_the_order_of_distributions_and_names(site: Site) -> None:
    site.add("zebra", "from found import *\ndef a(): return [Summary(), Watch('a')]", "a = zebra:a")
    site.add(
        "ant",
        "from found import *\ndef b(): return [Bar()]\ndef c(): return (Watch('c'),)",
        "late = ant:c",
        "early = ant:b",
        version="2.1",
    )
    assert [(type(p.callback).__name__, p.source, p.distribution) for p in site.discover().placed] == [
        ("Bar", "discovered", "ant 2.1"),
        ("Watch", "discovered", "ant 2.1"),
        ("Summary", "discovered", "zebra 1.0"),
        ("Watch", "discovered", "zebra 1.0"),
    ]


def test_trainer_that_a_factory_makes_does_not_ask_it_again(site: Site) -> None:
    code = (
        "from leyden import Trainer\nfrom found import Watch\n"
        "def make(): return [Watch(Trainer(accelerator='cpu', logger=False).discovered.off_because)]"
    )
    site.add("trains", code, "make = trains:make")
    (placed,) = site.discover().placed
    assert vars(placed.callback)["what"] == "it was made by a factory of callbacks"
    assert len(site.discover().placed) == 1


def test_random_numbers_that_a_factory_draws_are_not_missing_in_the_training(site: Site) -> None:
    site.add("dice", "import random, torch\nrandom.random()\ndef make(): torch.rand(1); return []", "make = dice:make")
    before = random.getstate(), torch.get_rng_state()
    assert site.discover().broken == []
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    "signature",
    ["()", "(settings)", "(settings={})", "(settings, other=1)", "(*settings)", "(*, key=1)"],
)
def test_a_factory_takes_nothing_or_one_mapping(site: Site, signature: str) -> None:
    site.add("one", f"from found import *\ndef make{signature}: return [Bar()]", "x = one:make")
    assert site.names() == ["Bar"]


def test_a_class_may_be_a_factory(site: Site) -> None:
    code = "from found import *\nclass Make(list):\n    def __init__(self): super().__init__([Bar()])"
    site.add("one", code, "x = one:Make")
    assert site.names() == ["Bar"]


def test_a_checkpoint_is_left_out_where_the_user_gave_one_or_wants_none(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [Saver()]", "x = one:make")
    site.add("two", "from found import *\ndef make(): return [Saver()]", "x = two:make")
    assert site.names() == ["Saver"]
    assert site.names(enable_checkpointing=True) == ["Saver"]
    assert site.names(enable_checkpointing=False) == []
    assert site.names([OwnCheckpoint()]) == []
    assert left_out(site) == [("Saver", "the Saver of one 1.0 stays")]
    assert left_out(site, OwnCheckpoint())[0] == ("Saver", "the user gave a OwnCheckpoint")
    assert left_out(site, enable_checkpointing=False)[0] == ("Saver", "Trainer(enable_checkpointing=False)")


def test_roles_obey_their_switches_and_are_filled_once(site: Site) -> None:
    code = "from found import *\ndef make(): return [Bar(), OtherBar(), Summary(), Watch()]"
    site.add("one", code, "x = one:make")
    assert site.names() == ["Bar", "Summary", "Watch"]
    assert site.names(enable_progress_bar=True, enable_model_summary=True) == ["Bar", "Summary", "Watch"]
    assert site.names(enable_progress_bar=False) == ["Summary", "Watch"]
    assert site.names(enable_model_summary=False) == ["Bar", "Watch"]
    assert site.names([OwnBar()]) == ["Summary", "Watch"]
    assert left_out(site) == [("OtherBar", "its factory brings a Bar already")]
    assert left_out(site, enable_progress_bar=False)[0] == ("Bar", "Trainer(enable_progress_bar=False)")


def test_the_users_own_of_the_same_type_and_key_wins(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch('loss'), Watch('acc')]", "x = one:make")
    own_class = type("Own", (type(site.make("Watch")),), {})
    assert site.names() == ["Watch", "Watch"]
    assert site.names([site.make("Watch", "loss")]) == ["Watch"]
    assert site.names([site.make("Watch", "loss"), site.make("Watch", "acc")]) == []
    assert site.names([site.make("Watch", "else")]) == ["Watch", "Watch"]
    assert site.names([own_class()]) == []
    assert site.names([Callback()]) == ["Watch", "Watch"]


def test_of_two_distributions_with_the_same_callback_one_stays_and_it_is_said_which(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add("zebra", "from found import *\ndef make(): return [Watch(), Watch('acc')]", "x = zebra:make")
    site.add("ant", "from found import *\ndef make(): return [Watch()]", "x = ant:make", version="2.0")
    with caplog.at_level(logging.INFO, "leyden"):
        found = site.discover()
    assert [(vars(p.callback)["what"], p.distribution) for p in found.placed] == [
        ("loss", "ant 2.0"),
        ("acc", "zebra 1.0"),
    ]
    assert found.left_out == [LeftOut("Watch", "zebra 1.0", "the Watch of ant 2.0 stays")]
    assert [record.getMessage() for record in caplog.records] == [
        "The Watch of zebra 1.0 is left out: the one of ant 2.0 stays."
    ]


def test_a_callback_is_asked_whether_it_applies(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [WhereCpu(), Watch()]", "x = one:make")
    assert site.names(trainer="cpu") == ["WhereCpu", "Watch"]
    assert site.names(trainer="cuda") == ["Watch"]
    found = site.discover(trainer="cuda")
    assert found.left_out == [LeftOut("WhereCpu", "one 1.0", "it has no use here (its applies(trainer) is false)")]


# -- through the trainer --------------------------------------------------------------------------------------------


def test_the_trainer_attaches_them_and_keeps_what_was_found(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch(), WhereCpu()]", "x = one:make")
    trainer = Trainer(logger=False, callbacks=[OwnBar()])
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["OwnBar", "Watch"]
    assert [type(p.callback).__name__ for p in trainer.discovered.placed] == ["Watch"]
    assert [one.callback for one in trainer.discovered.left_out] == ["WhereCpu"]
    reasons = [ordered.reason for ordered in trainer.describe_callbacks()]
    assert reasons == ["given by the user", "attached by one 1.0"]
    assert "│ 2 │ Watch    │ one 1.0 │ attached by one 1.0 │" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"barebones": True}, "Trainer(barebones=True)"),
        ({"discover_callbacks": False}, "Trainer(discover_callbacks=False)"),
    ],
)
def test_the_trainers_switches(site: Site, arguments: dict[str, bool], why: str) -> None:
    site.add("one", "raise RuntimeError('not even imported')", "x = one:make")
    site.configure("[callbacks.Nonsense]\n")
    trainer = Trainer(logger=None, **arguments)  # type: ignore[arg-type]
    assert (trainer.callbacks, trainer.discovered.off_because) == ([], why)


def test_one_that_cannot_work_beside_the_others_is_left_out_with_a_warning(site: Site) -> None:
    code = (
        "from found import *\nclass Odd(Callback):\n    def on_fit_starts(self, trainer, pl_module): ...\n"
        "def make(): return [Odd(), Watch()]"
    )
    site.add("one", code, "x = one:make")
    with pytest.warns(UserWarning, match=r"^Odd of one 1\.0 is left out: Odd\.on_fit_starts is no hook"):
        trainer = Trainer(logger=False)
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["Watch"]
    assert [type(p.callback).__name__ for p in trainer.discovered.placed] == ["Watch"]
    (out,) = trainer.discovered.left_out
    assert (out.callback, out.distribution) == ("Odd", "one 1.0")
    site.configure("[discovery]\nstrict = true")
    with pytest.raises(MisconfigurationException, match=r"Odd of one 1\.0 is left out: (.|\n)*strict = true"):
        Trainer(logger=False)


class OwnMaster(Callback):
    """A user's, which wants to be alone with the weights."""

    def conflict_with(self, other: Callback) -> str | None:
        return "both replace the weights." if type(other).__name__ == "Summary" else None


def test_one_that_conflicts_with_the_users_is_left_out_and_that_is_told(site: Site) -> None:
    site.add("ant", "from found import *\ndef make(): return [Summary(), Watch('c')]", "make = ant:make")
    with pytest.warns(UserWarning, match="OwnMaster and Summary cannot work in one trainer: both replace the weights"):
        trainer = Trainer(logger=False, callbacks=[OwnMaster()])
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["OwnMaster", "Watch"]


@pytest.mark.parametrize(
    ("switch", "what", "family"),
    [
        ("enable_progress_bar", "progress bar", "monitoring"),
        ("enable_model_summary", "model summary", "monitoring"),
        ("enable_checkpointing", "checkpoint", "checkpoint"),
    ],
)
def test_what_is_switched_on_and_not_installed_is_told_with_its_installation(
    site: Site, switch: str, what: str, family: str
) -> None:
    with pytest.warns(UserWarning, match=rf"^Trainer\({switch}=True\): nothing here brings a {what}\. ") as caught:
        Trainer(logger=False, **{switch: True})  # type: ignore[arg-type]
    assert f"pip install leyden-callbacks-{family}" in str(caught[0].message)
    site.add("one", "from found import *\ndef make(): return [Bar(), Summary(), Saver()]", "x = one:make")
    Trainer(logger=False, **{switch: True})  # type: ignore[arg-type]
