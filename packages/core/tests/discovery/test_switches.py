"""``LEYDEN_CALLBACKS``, allow and deny."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from leyden.discovery import LeftOut, discovery_is_on
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site


@pytest.fixture
def three(site: Site) -> Site:
    """Three factories: `bar` of ant-farm with a Bar and a Summary, `watch` of Zebra with a Watch, `saver` of cow."""
    site.add("ant-farm", "from found import *\ndef make(): return [Bar(), Summary()]", "bar = ant_farm:make")
    site.add("Zebra", "from found import *\ndef make(): return [Watch()]", "watch = Zebra:make")
    site.add("cow", "from found import *\ndef make(): return [Saver()]", "saver = cow:make")
    return site


@pytest.mark.parametrize("value", ["off", "OFF", " off ", "0", "false", "no"])
def test_the_environment_switches_it_off(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    site.add("one", "raise RuntimeError('not even imported')", "x = one:make")
    site.configure("[callbacks.Nonsense]\n")
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    assert not discovery_is_on()
    assert site.names() == []
    assert site.discover().off_because == "LEYDEN_CALLBACKS=off"


@pytest.mark.parametrize("value", ["", "on", "1"])
def test_another_value_leaves_it_on(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch()]", "x = one:make")
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    assert discovery_is_on()
    assert site.names() == ["Watch"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("only:bar", ["Bar", "Summary"]),
        ("only:watch,saver", ["Watch", "Saver"]),
        ("only: zebra , cow", ["Watch", "Saver"]),
        ("only:ant_farm", ["Bar", "Summary"]),
        ("only:Summary", ["Summary"]),
        ("only:Summary,watch", ["Summary", "Watch"]),
        ("without:bar", ["Watch", "Saver"]),
        ("without:Bar,Zebra", ["Saver"]),
        ("without:Summary", ["Bar", "Watch", "Saver"]),
        ("WITHOUT:saver", ["Bar", "Summary", "Watch"]),
        ("without:something-else", ["Bar", "Summary", "Watch", "Saver"]),
    ],
)
def test_only_some_or_without_some(three: Site, monkeypatch: pytest.MonkeyPatch, value: str, names: list[str]) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    assert sorted(three.names()) == sorted(names)


def test_a_factory_that_is_not_wanted_is_not_even_imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("one", "raise RuntimeError('imported')", "x = one:make")
    site.add("two", "from found import *\ndef make(): return [Watch()]", "y = two:make")
    for value in ("only:y", "without:x", "without:one"):
        monkeypatch.setenv("LEYDEN_CALLBACKS", value)
        assert site.names() == ["Watch"]
    assert site.discover().left_out == [LeftOut("all", "one 1.0", "named by LEYDEN_CALLBACKS=without:one")]


@pytest.mark.parametrize("value", ["offf", "only", "only:", "without: ,", "except:bar", "bar", "only=bar"])
def test_a_value_that_means_nothing_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    with pytest.raises(MisconfigurationException) as caught:
        site.discover()
    assert str(caught.value).startswith(
        f"LEYDEN_CALLBACKS={value!r}: expected off, on, only:NAME,... or without:NAME,...."
    )


def test_a_misspelt_mode_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "offf")
    with pytest.raises(MisconfigurationException, match=r"Did you mean 'off'\?$"):
        site.discover()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("only:wtach", "nothing installed here is called 'wtach'. Did you mean 'watch'?"),
        ("only:else", "nothing installed here is called 'else'."),
        ("without:nothing-near,watchh", "nothing installed here is called 'watchh'. Did you mean 'watch'?"),
    ],
)
def test_a_name_that_nothing_has_is_a_warning(
    three: Site, monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    with pytest.warns(UserWarning, match="nothing installed here") as caught:
        three.discover()
    assert [str(one.message) for one in caught] == [f"LEYDEN_CALLBACKS={value}: {told}"]


def test_the_configuration_allows_and_denies(three: Site) -> None:
    three.configure('[discovery]\nallow = ["bar", "watch"]\ndeny = ["Summary"]')
    assert three.names() == ["Bar", "Watch"]
    assert three.discover().left_out == [
        LeftOut("Summary", "ant-farm 1.0", "named by deny (leyden.toml:3)"),
        LeftOut("all", "cow 1.0", "not named by allow (leyden.toml:2)"),
    ]
    three.configure("[discovery]\nallow = []")
    assert three.names() == []


def test_the_environment_and_the_configuration_both_have_to_agree(three: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "without:watch")
    three.configure('[discovery]\ndeny = ["saver"]')
    assert three.names() == ["Bar", "Summary"]


def test_a_denied_name_that_is_nearly_there_is_told_with_its_line(three: Site) -> None:
    three.configure('[discovery]\n\ndeny = ["wach", "prometheus"]')
    with pytest.warns(UserWarning, match="nothing installed here") as caught:
        three.discover()
    assert [str(one.message) for one in caught] == [
        "deny (leyden.toml:3): nothing installed here is called 'wach'. Did you mean 'watch'?"
    ]
