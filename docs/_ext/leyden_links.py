"""A class that prose names leads to where it is documented: `Timer` in a sentence becomes a link to its page.

Linked are the public classes of the core and the families, the first time that a section names one; not on the page
that is about it, and not in headings and in links of another kind.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

from docutils import nodes
from leyden_pages import documented_on_pages, page_about
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["setup"]

_NOT_IN = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature, addnodes.toctree)


@cache
def _targets() -> dict[str, str]:
    """Return the full names of the classes by the names that stand in sentences."""
    core = importlib.import_module("leyden").__all__
    of_core = {name: f"leyden.{name}" for name in core if name.startswith(("Trainer", "Lightning"))}
    return of_core | {full.rpartition(".")[2]: full for full in documented_on_pages()}


def _link_classes(app: Sphinx, document: nodes.document) -> None:
    env = app.env
    linked: set[tuple[int, str]] = set()
    for literal in list(document.findall(nodes.literal)):
        full = _targets().get(literal.astext())
        if full is None or _is_within(literal, _NOT_IN):
            continue
        page = page_about(full)
        seen = (id(_section_of(literal)), full)
        if page == env.docname or seen in linked:
            continue
        linked.add(seen)
        to = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{page}"}
        if page is None:
            to = {"refdomain": "py", "reftype": "class", "reftarget": full}
        named = literal.deepcopy()
        literal.replace_self(addnodes.pending_xref("", named, refdoc=env.docname, refexplicit=True, refwarn=True, **to))


def _is_within(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    parent = node.parent
    while parent is not None and not isinstance(parent, kinds):
        parent = parent.parent
    return parent is not None


def _section_of(node: nodes.Node) -> nodes.Node:
    parent = node.parent
    while parent.parent is not None and not isinstance(parent, nodes.section | addnodes.desc):
        parent = parent.parent
    return parent


def setup(app: Sphinx) -> ExtensionMetadata:
    """Link what documents name as they are read."""
    app.connect("doctree-read", _link_classes)
    return {"version": "1", "parallel_read_safe": True}
