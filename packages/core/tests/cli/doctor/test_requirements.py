from __future__ import annotations

import pytest

from leyden.cli.doctor.requirements import Requirement, parse_requirement, satisfies


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("torch>=2.10", Requirement("torch", ">=2.10", "")),
        ("leyden<0.2,>=0.1", Requirement("leyden", "<0.2,>=0.1", "")),
        ("leyden (>=0.1,<0.2)", Requirement("leyden", ">=0.1,<0.2", "")),
        ("fsspec[http] >= 2023.1 ; extra == 'remote'", Requirement("fsspec", ">= 2023.1", "extra == 'remote'")),
        ("tqdm", Requirement("tqdm", "", "")),
        ("mine @ https://example.org/mine.whl", None),
        ("", None),
    ],
)
def test_requirements(text: str, requirement: Requirement | None) -> None:
    assert parse_requirement(text) == requirement


VERSIONS = [
    "0.9",
    "1.0",
    "1.0.1",
    "1.1",
    "1.1rc1",
    "1.2.0.dev3",
    "1.2.0",
    "1.10",
    "2.0",
    "2.13.0+cpu",
    "2.0a1",
    "1.2.post1",
]
RANGES = [
    ">=1.0",
    ">1.0",
    "<=1.2",
    "<2",
    "==1.0",
    "==1.0.*",
    "!=1.2.0",
    "!=1.*",
    "~=1.1",
    "~=1.0.1",
    ">=1.0,<2",
    "",
    "== 1.1",
]


@pytest.mark.parametrize("wanted", RANGES)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_says_is_what_packaging_says(version: str, wanted: str) -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    told = satisfies(version, wanted)
    if told is not None:
        assert told is specifiers.SpecifierSet(wanted).contains(version, prereleases=True)


def test_of_final_versions_it_is_always_sure() -> None:
    final = [version for version in VERSIONS if version.replace("+cpu", "").replace(".", "").isdecimal()]
    assert len(final) == 8
    assert all(satisfies(version, wanted) is not None for version in final for wanted in RANGES)


@pytest.mark.parametrize(("version", "wanted"), [("1!2.0", ">=1"), ("unknown", ">=1"), ("1.0", "===1.0"), ("1", "?")])
def test_what_is_not_sure_is_not_told(version: str, wanted: str) -> None:
    assert satisfies(version, wanted) is None
