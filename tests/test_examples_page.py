"""The scripts in `examples/callbacks` are short, run as they stand, and are on the page of examples with a picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples" / "callbacks").glob("*.py"))
SCRIPTS = [path for path in FILES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")

RUN = """
import runpy, sys
for script in sys.argv[1:]:
    has_options = "options" in open(script).read()
    sys.argv[:] = [script, *(("--max-epochs", "1") if has_options else ())]
    runpy.run_path(script, run_name="__main__")
"""


def test_no_file_is_longer_than_80_lines() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 80} == {}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_page_shows_each_with_its_picture(script: Path) -> None:
    assert f"../examples/callbacks/{script.name}" in PAGE
    (picture,) = (ROOT / "docs" / "pictures").glob(f"example_{script.stem}.*")
    assert f"(pictures/{picture.name})" in PAGE
    assert picture.stat().st_size < 100_000


def test_they_run_from_the_command_line(tmp_path: Path) -> None:
    """All in one process, which has what `python SCRIPT` has to import from; one start of it takes three seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FILES[0].parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUN, *SCRIPTS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
