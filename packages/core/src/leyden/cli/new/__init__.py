"""``leyden new``: the folder of a distribution of callbacks that builds, installs, is discovered and tested."""

from __future__ import annotations

import argparse
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template

from leyden.cli.commands import Commands, new_command
from leyden.cli.new.names import FamilyNames, choose_names
from leyden.cli.output import paragraph, say, say_json
from leyden.errors import MisconfigurationException

__all__ = ["add_to", "files_of"]

_TEMPLATES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "src/$package/__init__.py": "__init__.py",
    "src/$package/$module.py": "callback.py",
    "src/$package/factory.py": "factory.py",
    "src/$package/py.typed": None,
    "tests/test_$module.py": "test.py",
}
"""What is written, by path, and the template it is made from; None for an empty file."""


def add_to(commands: Commands) -> None:
    """Add ``new``."""
    command = new_command(
        commands,
        "new",
        "Write a distribution of callbacks to start from.",
        "A folder with pyproject.toml, entry points, a callback, its factory and its tests. It builds, installs, is "
        "discovered and passes its tests as it is.",
        _new,
    )
    command.add_argument("name", metavar="callbacks-NAME", help="the folder to make, such as callbacks-gpu-watch")
    command.add_argument("--dir", default=".", help="where to make it; the working folder if not said")
    command.add_argument("--class", dest="class_name", metavar="CLASS", help="of the callback; GpuWatch if not said")
    command.add_argument("--distribution", help="what is pip installed; leyden-callbacks-gpu-watch if not said")
    command.add_argument("--package", help="what is imported; leyden_gpu_watch if not said")


def files_of(names: FamilyNames) -> dict[str, str]:
    """Return the text of every file of a new family by its path in the folder."""
    words = names.words()
    folder = files(__name__) / "templates"
    texts = {
        path: "" if template is None else (folder / f"{template}.template").read_text(encoding="utf-8")
        for path, template in _TEMPLATES.items()
    }
    return {Template(path).substitute(words): Template(text).substitute(words) for path, text in texts.items()}


def _new(arguments: argparse.Namespace) -> int:
    names = choose_names(
        arguments.name,
        class_name=arguments.class_name,
        distribution=arguments.distribution,
        package=arguments.package,
    )
    folder = Path(arguments.dir) / names.folder
    written = _write(folder, files_of(names))
    if arguments.json:
        say_json({"folder": str(folder), "files": written} | names.words())
        return 0
    say(paragraph(f"Made {folder}, the distribution {names.distribution}:"))
    for path in written:
        say(f"  {path}")
    say("\nNext:")
    for line in (f"cd {folder}", 'pip install -e ".[dev]"', "leyden callbacks", "pytest"):
        say(f"  {line}")
    return 0


def _write(folder: Path, texts: dict[str, str]) -> list[str]:
    """Write the files into a folder that is not there yet."""
    if folder.parent.exists() and not folder.parent.is_dir():
        raise MisconfigurationException(f"leyden new --dir {folder.parent}: this is no folder. Name one.")
    if folder.is_symlink() or folder.exists():
        raise MisconfigurationException(
            f"leyden new: {folder} is there already, and nothing was written. "
            "Choose another name or another --dir, or move it away."
        )
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # a part of it would be in the way of the next attempt
        raise
    return list(texts)
