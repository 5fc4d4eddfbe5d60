"""What the site takes from the sources: the order of hooks from the contract, changes from the packages' folders.

``{hook-order}`` writes the hooks of the contract as a table, ``{changes} core`` the changelog of one package with the
fragments of its next release on top, ``{command} leyden …`` runs that command and shows what it printed, in a folder
that holds the page's ``{file} NAME`` blocks, ``{new-family} PATH`` shows a file of a family that ``leyden new`` writes.
Run as a script it prints the table of the README.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar
from zipfile import ZipFile

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from leyden.cli.hooks import arguments_in_words, receivers
from leyden.cli.new import files_of as files_of_family
from leyden.cli.new.names import choose_names
from leyden.hooks.contract import HOOKS, Hook

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata, OptionSpec

__all__ = ["output_of", "setup", "table_of_older_hooks", "table_of_order"]

PACKAGES = Path(__file__).parents[2] / "packages"
LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown"}
KINDS = ("added", "changed", "fixed", "removed")


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown."""
    lines = [list(headers)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _arguments(hook: Hook) -> str:
    caller = hook.full_arguments(module=not hook.callbacks)[: -len(hook.arguments) or None]
    return ", ".join([*caller, *filter(None, [arguments_in_words(hook)])]) or "–"


def _log(hook: Hook) -> str:
    if hook.log is None:
        return "–"
    if not hook.log.step_allowed:
        return "epoch"
    return "**step**, epoch" if hook.log.on_step else "step, **epoch**"


def table_of_order(*, short: bool = False) -> str:
    """The hooks of today in the order of a run; `short` leaves out the module's own, and test and predict."""
    hooks = [hook for hook in HOOKS.values() if hook.generation is None]
    if not short:
        rows = [
            [f"`{one.name}`", f"`{_arguments(one)}`", one.summary, ", ".join(receivers(one)), _log(one)]
            for one in hooks
        ]
        return table(["hook", "arguments", "called", "received by", "`self.log`"], rows)
    shown = [one for one in hooks if one.callbacks and not one.name.startswith(("on_test_", "on_predict_"))]
    rows = [[f"`{one.name}`", ", ".join(one.arguments), one.summary] for one in shown]
    return table(["hook", "gets", "called"], rows)


def table_of_older_hooks() -> str:
    """Hooks and signatures of earlier generations, each with what replaces it."""
    rows = []
    for hook in HOOKS.values():
        if hook.generation is not None and hook.replacement is not None:
            rows.append([f"`{hook.name}`", hook.generation, f"`{_arguments(hook)}`", hook.summary, hook.replacement])
        for older in hook.older:
            arguments = f"`{', '.join(older.arguments)}`"
            rows.append([f"`{hook.name}`", older.generation, arguments, hook.summary, older.replacement])
    return table(["hook", "generation", "arguments", "called", "today"], rows)


class HookOrder(SphinxDirective):
    """``{hook-order}`` or ``{hook-order} older``."""

    optional_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        older = self.arguments == ["older"]
        return self.parse_text_to_nodes(table_of_older_hooks() if older else table_of_order())


def files_of(directive: SphinxDirective) -> dict[str, str]:
    """Return the files that the page has shown so far."""
    files: dict[str, str] = directive.env.temp_data.setdefault("leyden_files", {})  # type: ignore[assignment]
    return files


class File(SphinxDirective):
    """``{file} NAME``: Python that is shown, and that the page's commands find under this name."""

    required_arguments: ClassVar[int] = 1
    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        files_of(self)[self.arguments[0]] = f"{text}\n"
        return [nodes.literal_block(text, text, language=LANGUAGES[Path(self.arguments[0]).suffix])]


class Command(SphinxDirective):
    """``{command} leyden …``: the command, and what it prints on a terminal of 100 columns.

    With ``:new-family:`` where the family of ``{new-family}`` is installed.
    """

    required_arguments: ClassVar[int] = 1
    final_argument_whitespace: ClassVar[bool] = True
    option_spec: ClassVar[OptionSpec] = {"new-family": directives.flag}

    def run(self) -> list[nodes.Node]:
        line = self.arguments[0]
        with TemporaryDirectory() as folder:
            installed = install_new_family(Path(folder)) if "new-family" in self.options else None
            text = f"$ {line}\n{output_of(line, files_of(self), installed)}"
        return [nodes.literal_block(text, text, language="text")]


def output_of(line: str, files: Mapping[str, str], installed: Path | None = None) -> str:
    """Run ``NAME=value … leyden …`` in an empty folder that holds `files`; a traceback is an error of the page.

    `installed` is a folder with distributions beside those that are installed.
    """
    variables = list(takewhile(lambda word: "=" in word, shlex.split(line)))
    program, *arguments = shlex.split(line)[len(variables) :]
    if program != "leyden":
        raise ValueError(f"{line!r}: the site runs the command leyden alone")
    code = "import sys; from leyden.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEYDEN_")}
    environment |= {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"} | dict(one.split("=", 1) for one in variables)
    if installed is not None:
        paths = [str(installed), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_text(content, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder, env=environment,
            check=False,
        )  # fmt: skip
    if "Traceback" in done.stderr:
        raise ValueError(f"{line!r} failed:\n{done.stderr}")
    return (done.stdout + done.stderr).replace(folder, "/work").replace(sys.prefix, "/venv").rstrip()


def install_new_family(folder: Path) -> Path:
    """Build the family in `folder` and return another with what pip would install of its wheel."""
    for path, text in new_family().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "wheels"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "wheels").iterdir()
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def new_family() -> dict[str, str]:
    """Return what ``leyden new callbacks-grad-norm`` writes, by path."""
    return files_of_family(choose_names("callbacks-grad-norm"))


class NewFamily(SphinxDirective):
    """``{new-family} PATH``: a file of what ``leyden new callbacks-grad-norm`` writes."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        text = new_family()[self.arguments[0]].rstrip()
        return [nodes.literal_block(text, text, language=LANGUAGES[Path(self.arguments[0]).suffix])]


class Changes(SphinxDirective):
    """``{changes} FOLDER``: the changelog of the package in that folder of `packages/`."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        package = PACKAGES / self.arguments[0]
        parts = []
        for kind in KINDS:
            fragments = sorted((package / "changelog.d").glob(f"*.{kind}.md"))
            parts += [f"- *{kind}*: {path.read_text(encoding='utf-8').strip()}" for path in fragments]
            for path in fragments:
                self.env.note_dependency(path)
        text = "\n".join(["**Next release**", "", *parts]) if parts else ""
        released = (package / "CHANGELOG.md").read_text(encoding="utf-8").partition("<!-- changes start here -->")[2]
        return self.parse_text_to_nodes(f"{text}\n\n{released}", allow_section_headings=True)


def _write_for_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let napoleon, which runs next, read a heading that it does not know as the list of arguments that it is."""
    lines[:] = ["Args:" if line == "Arguments that types don't explain:" else line for line in lines]
    if what in ("attribute", "property", "data") and lines:
        lines[:1] = [f": {lines[0]}"]  # napoleon takes what stands before the first colon for a type


def _skip_torchs_own(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out what a module inherits from torch: torch documents it."""
    return True if (getattr(obj, "__module__", None) or "").startswith("torch.") else None


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directives."""
    app.add_directive("hook-order", HookOrder)
    app.add_directive("changes", Changes)
    app.add_directive("command", Command)
    app.add_directive("file", File)
    app.add_directive("new-family", NewFamily)
    app.connect("autodoc-process-docstring", _write_for_napoleon, priority=400)
    app.connect("autodoc-skip-member", _skip_torchs_own)
    return {"version": "1", "parallel_read_safe": True}


if __name__ == "__main__":
    print(table_of_order(short=True))
