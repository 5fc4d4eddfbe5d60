"""Tables of the names of Lightning: what is the same here is found out, what is not says what to write instead.

``{lightning-names} callbacks callbacks.*`` shows the paths that fit one of the patterns. The names are those of
``lightning_public.toml``; a name that this package has under the same path is the same. For the others the advice
is that of the package itself, else that of ``lightning_instead.toml``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from leyden.hooks.contract import HOOKS, REMOVED_MODULE_METHODS
from leyden.older_arguments import OF_CLASSES, OLDER_ARGUMENTS, OLDER_ATTRIBUTES

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS))

import lightning_public  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["Name", "names", "sections", "setup"]

OURS = ("leyden", "leyden_checkpoint", "leyden_finetune", "leyden_monitoring", "leyden_optim")
INSTEAD = DOCS / "lightning_instead.toml"
CODE = re.compile(
    r"((?:trainer|self|leyden|parser)\.[\w.]+(?:\([^()]*\)(?:\.\w+)*)*|(?<![\w.])[a-z]+_\w+(?![\w=])"
    r"|\w+=(?:\[[^]]*\]|\.\.\.|[^\s,;:]+)|[A-Z]\w+\([^()]*(?:\([^()]*\))?\))"
)
"""What in the advice of the package, which is plain text, is code."""

GENERATIONS = {"1": "1.x", "2": "2.x", "12": ""}


@dataclass(frozen=True)
class Name:
    """One public name of Lightning.

    Attributes:
        path: of the module, of the class, or of a callable, which ends in ``(...)``.
        generations: that have it, "1", "2" or "12".
        is_here: whether this package has it under the same path.
        advice: what to write instead, or how it differs; "" for one that is the same.
    """

    path: str
    name: str
    generations: str
    is_here: bool
    advice: str


def _resolve(path: str) -> Any:
    """Return what this package has under `path`, None for nothing."""
    parts = path.split(".") if path else []
    for count in range(len(parts), -1, -1):
        try:
            module = importlib.import_module(".".join(["leyden", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        found: Any = module
        try:
            return functools.reduce(getattr, parts[count:], found)
        except (AttributeError, ImportError):
            return None
    return None


@functools.cache
def _names_here(path: str) -> set[str]:
    found = _resolve(path.removesuffix("(...)"))
    if found is None:
        return set()
    if path.endswith("(...)"):
        parameters = inspect.signature(found).parameters.values()
        takes_hooks = found.__name__ == "LambdaCallback"
        return {one.name for one in parameters} | (set(HOOKS) if takes_hooks else set())
    names = {*dir(found), *getattr(found, "__all__", ())}
    if inspect.isclass(found):
        names |= lightning_public.attributes_of(found, OURS)
    if path in ("LightningDataModule", "Trainer"):
        names -= {*OF_CLASSES}  # there to say that they are not
    if path in ("Callback", "LightningModule"):
        names |= {hook.name for hook in HOOKS.values() if (hook.callbacks if path == "Callback" else hook.module)}
    return names


@functools.cache
def _instead() -> list[tuple[str, list[str], str]]:
    """Return the rules of the file: the pattern of the path, those of names, the advice."""
    rules = []
    for key, advice in tomllib.loads(INSTEAD.read_text(encoding="utf-8")).items():
        paths, _, patterns = key.rpartition(":")
        rules += [(path, patterns.split("|"), advice) for path in paths.split("|")]
    return rules


def _advice(path: str, name: str, is_here: bool) -> str:
    in_code = {"Trainer(...)": OLDER_ARGUMENTS, "Trainer": OLDER_ATTRIBUTES, "LightningModule": REMOVED_MODULE_METHODS}
    advice = in_code.get(path, {}).get(name, "")
    if advice:
        return advice[0].upper() + CODE.sub(r"`\1`", advice[1:]) + "."
    hook = HOOKS.get(name)
    if hook is not None and hook.replacement is not None and path in ("Callback", "LightningModule"):
        return f"Called as ever; today `{hook.replacement}`."
    for paths, patterns, advice in _instead():
        fits = fnmatchcase(path, paths) and any(fnmatchcase(name, pattern) for pattern in patterns)
        if fits and (not is_here or advice.startswith("Here")):
            return advice
    return ""


def names(*patterns: str) -> Iterator[Name]:
    """Yield the names whose path fits a pattern; all of them without one."""
    for path, listed in lightning_public.read().items():
        if patterns and not any(fnmatchcase(path or "package", pattern) for pattern in patterns):
            continue
        here = _names_here(path)
        for name, generations in listed.items():
            yield Name(path, name, generations, name in here, _advice(path, name, name in here))


def sections(found: Iterable[Name]) -> str:
    """Write the names as Markdown: a list of those that are the same, by path, and a table of the others."""
    same: dict[str, list[str]] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for one in found:
        generation = GENERATIONS[one.generations]
        written = f"`{one.name}`" + (f" ({generation})" if generation and one.advice else "")
        if one.is_here and not one.advice:
            same.setdefault(one.path, []).append(f"`{one.name}`")
        else:
            others.setdefault((one.path, one.advice), []).append(written)
    lines = [f"- {_written(path)}: {', '.join(members)}" for path, members in same.items()]
    if others:
        lines += ["", "| where | name | here |", "| --- | --- | --- |"]
        lines += [f"| {_written(path)} | {', '.join(members)} | {advice} |"
                  for (path, advice), members in others.items()]  # fmt: skip
    return "\n".join(lines)


def _written(path: str) -> str:
    return f"`{path}`" if path else "the package"


class LightningNames(SphinxDirective):
    """``{lightning-names} PATTERN ...``."""

    required_arguments: ClassVar[int] = 1
    final_argument_whitespace: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        for file in (INSTEAD, lightning_public.FILE):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes(sections(names(*self.arguments[0].split())))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directive."""
    app.add_directive("lightning-names", LightningNames)
    return {"version": "1", "parallel_read_safe": True}
