"""One place for each class: its page in `docs/callbacks/`, which lists and references elsewhere find by themselves.

``{callback-list} leyden_optim`` is a table of a package's callbacks, each with a link to where it is documented and the
first line of its docstring. What a page documents with ``autoclass`` is left out of the package's ``automodule``, so
that it stands in one place. References to a class by the module that defines it lead there too.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from leyden.callback import Callback

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["documented_on_pages", "page_about", "setup"]

PAGES = Path(__file__).parents[1] / "callbacks"
PACKAGES = (
    "leyden", "leyden.loggers", "leyden.profilers", "leyden.testing", "leyden_checkpoint", "leyden_monitoring",
    "leyden_finetune", "leyden_optim",
)  # fmt: skip
_log = logging.getLogger(__name__)


@cache
def documented_on_pages() -> dict[str, Path]:
    """Return what the pages document, by the full names that stand there, as ``leyden_optim.Timer``."""
    return {
        name: page
        for page in sorted(PAGES.glob("*.md"))
        for name in re.findall(r"^\.\. autoclass:: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }


def page_about(full: str) -> str | None:
    """Return the document that is about a class, ``callbacks/timer`` for ``leyden_optim.Timer``; None without one."""
    page, name = documented_on_pages().get(full), full.rpartition(".")[2].lower()
    return f"callbacks/{page.stem}" if page is not None and page.stem.replace("_", "") == name else None


def _first_line(value: type) -> str:
    return (value.__doc__ or "").strip().splitlines()[0].replace("``", "`")


class CallbackList(SphinxDirective):
    """``{callback-list} leyden_optim``: what the package exports and a page documents."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = importlib.import_module(package)
        lines = ["| class | in a sentence |", "| --- | --- |"]
        for full in documented_on_pages():
            owner, _, name = full.rpartition(".")
            if owner == package:
                about = page_about(full)
                link = f"{{doc}}`{name} </{about}>`" if about else f"{{py:class}}`{name} <{full}>`"
                lines.append(f"| {link} | {_first_line(getattr(module, name))} |")
        for path in (PAGES, *PAGES.glob("*.md")):  # the folder for pages that come or go
            self.env.note_dependency(path)
        return self.parse_text_to_nodes("\n".join(lines))


def _skip_what_a_page_documents(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    if what == "class" and name in vars(Callback) and app.env.docname.startswith("callbacks/"):
        return app.env.docname != "callbacks/callback" or None  # what a hook is stands there, for all of them
    if what == "module" and isinstance(obj, type):
        for full in documented_on_pages():
            owner, _, short = full.rpartition(".")
            if short == obj.__name__ and getattr(importlib.import_module(owner), short) is obj:
                return True
    return None


def _show_public_bases(app: Sphinx, name: str, obj: type, options: object, bases: list[Any]) -> None:
    """Name the bases that are documented in place of the private ones between, which only keep modules short."""
    shown: list[Any] = []
    for base in bases:
        shown += [one for one in _public(base) if one not in shown]
    bases[:] = shown or [object]


def _public(base: Any) -> list[Any]:
    """Return `base` where it is documented or not ours, else what it is documented as being made of."""
    if not isinstance(base, type) or not base.__module__.startswith("leyden"):
        return [base]
    if base.__name__ in _public_names():
        return [base]
    return [one for above in base.__bases__ if above is not object for one in _public(above)]


@cache
def _public_names() -> set[str]:
    return {name for package in PACKAGES for name in importlib.import_module(package).__all__}


def _miss_nothing(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public classes and functions that stand nowhere; Sphinx itself warns of those that stand twice."""
    documented = {(full.partition(".")[0], full.rpartition(".")[2]) for full in env.domains.python_domain.objects}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            owner = getattr(value, "__module__", package).partition(".")[0]
            known_as = {(owner, getattr(value, "__name__", name)), (owner, name), (package.partition(".")[0], name)}
            if callable(value) and not known_as & documented:
                _log.warning("%s.%s is public and stands nowhere in the documentation", package, name)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directive, and let autodoc document nothing twice."""
    app.add_directive("callback-list", CallbackList)
    app.connect("autodoc-skip-member", _skip_what_a_page_documents)
    app.connect("autodoc-process-bases", _show_public_bases)
    app.connect("env-check-consistency", _miss_nothing)
    return {"version": "1", "parallel_read_safe": True}
