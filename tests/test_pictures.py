"""The pictures that scripts draw, and the files that a page names, are those of the sources as they are."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["hooks", "house"])
def test_the_picture_is_that_of_the_sources(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    script = DOCS / f"pictures_{name}.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, script.stem, module)  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    assert module.PICTURE.read_text(encoding="utf-8") == module.draw(), f"python docs/{script.name} draws it anew"


def test_the_files_that_the_page_of_the_architecture_names_are_there() -> None:
    packages = DOCS.parent / "packages"
    roots = [DOCS.parent, packages / "core/src/leyden", *packages.glob("callbacks-*/src")]
    named = set(re.findall(r"[\w/-]+(?:\.py|/(?=[`\s]))", (DOCS / "architecture.md").read_text(encoding="utf-8")))
    assert {"loops/fit.py", "discovery/"} < named
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []
