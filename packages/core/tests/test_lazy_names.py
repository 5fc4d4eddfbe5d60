"""A package imports a name's module when the name is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def test_a_module_is_imported_when_a_name_of_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lazy_family"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from leyden.lazy_names import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'Timer': 'clock', 'Best': 'clock', 'Broken': 'broken'})\n"
    )
    (package / "clock.py").write_text("class Timer: ...\nclass Best: ...\n")
    (package / "broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lazy_family  # type: ignore[import-not-found]

    assert dir(lazy_family) == ["Best", "Broken", "Timer"]
    assert "lazy_family.clock" not in sys.modules
    first = lazy_family.Timer
    assert first.__module__ == "lazy_family.clock"
    assert lazy_family.Timer is vars(lazy_family)["Timer"] is first  # found without asking again
    with pytest.raises(AttributeError, match="module 'lazy_family' has no attribute 'Tmier'"):
        lazy_family.Tmier  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):  # the family's own trouble
        lazy_family.Broken  # noqa: B018
