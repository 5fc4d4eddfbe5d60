"""The names of a new family: made of one, each can be given, and none is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import leyden
from leyden.cli.new.names import choose_names
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from packages.core.tests.cli.conftest import Site


def problem(given: str, **names: Any) -> str:
    with pytest.raises(MisconfigurationException) as caught:
        choose_names(given, **names)
    return str(caught.value)


def test_all_are_made_of_one() -> None:
    names = choose_names("callbacks-gpu-watch2")
    assert names.folder == "callbacks-gpu-watch2"
    assert names.words() == {
        "distribution": "leyden-callbacks-gpu-watch2",
        "package": "leyden_gpu_watch2",
        "class_name": "GpuWatch2",
        "module": "gpu_watch2",
        "factory": "gpu_watch2",
        "leyden": "leyden>=0.1,<0.2",
    }


def test_each_can_be_given() -> None:
    names = choose_names("callbacks-gpu", class_name="GPUStatsToX", distribution="acme.gpu", package="acme_gpu")
    assert (names.folder, names.factory, names.module) == ("callbacks-gpu", "gpu", "gpu_stats_to_x")
    assert (names.class_name, names.distribution, names.package) == ("GPUStatsToX", "acme.gpu", "acme_gpu")


@pytest.mark.parametrize(
    ("version", "requirement"),
    [("0.1.0", "leyden>=0.1,<0.2"), ("0.12.3rc1", "leyden>=0.12,<0.13"), ("2.3.1", "leyden>=2.3,<3")],
)
def test_it_depends_on_the_versions_that_keep_what_it_uses(
    version: str, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leyden, "__version__", version)
    assert choose_names("callbacks-acme").words()["leyden"] == requirement


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("acme", " Write: leyden new callbacks-acme"),
        ("callback-acme", " Write: leyden new callbacks-acme"),
        ("callbacks_acme", " Write: leyden new callbacks-acme"),
        ("callbacks-GPU_Watch", " Write: leyden new callbacks-gpu-watch"),
        ("callbacks-acme--", " Write: leyden new callbacks-acme"),
        ("callbacks-2fast", ""),
        ("callbacks-", ""),
        ("", ""),
        ("../callbacks-acme", " Write: leyden new callbacks-acme"),
    ],
)
def test_a_name_of_another_form_is_an_error_with_the_right_one(given: str, wanted: str) -> None:
    assert problem(given) == (
        f"leyden new {given!r}: expected callbacks-NAME, with a NAME of lower-case letters, digits and dashes that "
        f"begins with a letter.{wanted}"
    )


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        ("optim", {}, "leyden-callbacks-optim is one of leyden's own families. Choose another NAME, or give"),
        ("a", {"distribution": "Leyden_Callbacks.optim"}, "is one of leyden's own families"),
        ("a", {"distribution": "-a"}, "--distribution='-a' cannot be the name of a distribution"),
        ("a", {"distribution": "Torch"}, "the distribution Torch "),
        ("a", {"package": "leyden_optim"}, "leyden_optim is the package of one of leyden's own families"),
        ("a", {"package": "json"}, "the package json would hide the module json of the standard library"),
        ("a", {"package": "torch"}, "a package torch is installed here already. Choose another NAME, or give"),
        ("a", {"package": "__main__"}, "a package __main__ is installed here already"),
        ("a", {"package": "my-package"}, "--package='my-package' cannot be imported"),
        ("a", {"package": "class"}, "--package='class' cannot be imported"),
        ("a", {"package": "Acme"}, "--package='Acme' cannot be imported"),
        ("a", {"class_name": "2Fast"}, "'2Fast' cannot be the name of a class. Give one such as GpuWatch by --class."),
        ("a", {"class_name": "watch"}, "'watch' cannot be the name of a class"),
        ("a", {"class_name": "None"}, "'None' cannot be the name of a class"),
        ("a", {"class_name": ""}, "'' cannot be the name of a class"),
        ("early-stopping", {"class_name": "EarlyStopping"}, "there is a callback EarlyStopping already"),
        ("callback", {}, "there is a callback Callback already"),
        ("exception", {}, "a class Exception would hide another of this name. Give another by --class."),
        ("path", {}, "a class Path would hide another of this name"),
        ("class", {}, "the class Class would stand in a module class.py, which there cannot be"),
        ("factory", {}, "the class Factory would stand in a module factory.py"),
    ],
)
def test_a_name_that_is_taken_is_an_error_that_says_by_what(given: str, names: dict[str, str], expected: str) -> None:
    told = problem(f"callbacks-{given}", **names)
    assert told.startswith(f"leyden new callbacks-{given}: ")
    assert expected in told


def test_what_other_distributions_brought_is_taken(site: Site) -> None:
    site.add("acme-things", "", factory="acme = acme_things:make", callbacks="GpuWatch = acme_things:GpuWatch")
    assert "acme-things, which is installed here, has a factory called 'acme'. Choose another NAME." in problem(
        "callbacks-acme"
    )
    assert "there is a callback GpuWatch already" in problem("callbacks-gpu-watch")
    assert "the distribution acme_things 1.0 is installed here. Choose" in problem(
        "callbacks-mine", distribution="acme_things"
    )
    assert "a package acme_things is installed here already" in problem("callbacks-mine", package="acme_things")
