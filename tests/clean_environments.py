"""Environments that hold wheels of this repository, torch, what is declared, and nothing else.

An environment sees torch, what torch requires, and what a family declares, through a folder of links to the packages
installed here; nothing else, and no index. So pip itself refuses a wheel that requires more than it says here, and an
import of anything undeclared fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = Path(__file__).parents[1] / "packages"


def attempt(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without pip's and Python's settings of this machine."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "LEYDEN_"))}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=clean | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command likewise, which must succeed; return what it prints."""
    done = attempt(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheels(folder: Path) -> Path:
    """Build the wheel of every distribution in `packages/` into a folder."""
    for package in sorted(PACKAGES.iterdir()):
        run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=package)
    return folder


def with_requirements(*names: str) -> list[Distribution]:
    """Return the installed distributions of these names and of everything they require here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of a platform's own; torch is installed and imports without it
            continue
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return list(found.values())


class Environment:
    """A virtual environment that sees torch and the named distributions alone, by links to those installed here."""

    def __init__(self, folder: Path, wheels: Path, *uses: str) -> None:
        self.folder, self.wheels = folder, wheels
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        links = folder / "links"
        links.mkdir()
        for installed in with_requirements("torch", *uses):
            for top in {file.parts[0] for file in installed.files or () if file.parts[0] != ".."} - {"__pycache__"}:
                if not (links / top).exists():
                    (links / top).symlink_to(Path(str(installed.locate_file(top))))
        (self.site_packages,) = folder.glob("lib/python*/site-packages")
        (self.site_packages / "links.pth").write_text(f"{links}\n", encoding="utf-8")

    def install(self, *requirements: str) -> None:
        """Let pip resolve and install from the wheels, with no index to get anything else from."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet")
        run(*pip, "--no-index", "--find-links", self.wheels, *requirements, cwd=self.folder)

    def run(self, code: str, **environment: str) -> str:
        return run(self.python, "-c", code, cwd=self.folder, OMP_NUM_THREADS="1", **environment)
