"""What `import leyden` does to a process."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_left_as_it_was(collects: bool) -> None:
    code = f"import gc; gc.{'enable' if collects else 'disable'}(); import leyden; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(collects)


def test_the_collector_goes_on_where_an_import_fails() -> None:
    code = (
        "import gc, sys; sys.modules['leyden.trainer'] = None\n"
        "try: import leyden\nexcept ImportError: print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
