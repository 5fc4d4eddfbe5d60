"""What the site takes from the sources: the order of hooks from the contract, changes from the packages' folders.

Two directives: ``{hook-order}`` writes the hooks of the contract as a table, ``{changes} core`` writes the changelog of
one package with the fragments of its next release on top. Run as a script it prints the table of the README.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from leyden.hooks.contract import HOOKS, Hook

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["setup", "table_of_older_hooks", "table_of_order"]

PACKAGES = Path(__file__).parents[2] / "packages"
KINDS = ("added", "changed", "fixed", "removed")


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown."""
    lines = [list(headers)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _arguments(hook: Hook) -> str:
    names = hook.full_arguments(module=not hook.callbacks)
    required = len(names) - hook.optional
    return ", ".join(name if index < required else f"{name}=…" for index, name in enumerate(names)) or "–"


def _receivers(hook: Hook) -> str:
    receivers = {"callbacks": hook.callbacks, "module": hook.module, "datamodule": hook.datamodule}
    return ", ".join(name for name, receives in receivers.items() if receives)


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
        rows = [[f"`{one.name}`", f"`{_arguments(one)}`", one.summary, _receivers(one), _log(one)] for one in hooks]
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


def _rename_sections(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let napoleon, which runs next, read a heading that it does not know as the list of arguments that it is."""
    lines[:] = ["Args:" if line == "Arguments that types don't explain:" else line for line in lines]


def _skip_torchs_own(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out what a module inherits from torch: torch documents it."""
    return True if (getattr(obj, "__module__", None) or "").startswith("torch.") else None


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directives."""
    app.add_directive("hook-order", HookOrder)
    app.add_directive("changes", Changes)
    app.connect("autodoc-process-docstring", _rename_sections, priority=400)
    app.connect("autodoc-skip-member", _skip_torchs_own)
    return {"version": "1", "parallel_read_safe": True}


if __name__ == "__main__":
    print(table_of_order(short=True))
