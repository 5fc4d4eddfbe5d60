"""The changelog of every package builds from its fragments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = sorted(path.parent for path in (Path(__file__).parents[1] / "packages").glob("*/pyproject.toml"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_changelog_builds(package: Path) -> None:
    """A draft, which changes no file, holds the text of every fragment under the version."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--dir", str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=package)
    assert done.returncode == 0, done.stderr
    assert "9.9.9" in done.stdout
    told = " ".join(done.stdout.split())
    for fragment in sorted((package / "changelog.d").glob("*.md")):
        words = fragment.read_text(encoding="utf-8").split()
        assert words, f"{fragment} is empty"
        assert " ".join(words) in told, fragment.name
