"""``leyden hooks --of``: what a class overrides, as which generation, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leyden.callback import Callback
from leyden.cli.importing import imported
from leyden.cli.output import paragraph, plain, say, say_json, table
from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException, with_article
from leyden.hooks.findings import Examined, Override, findings, overrides_of
from leyden.hooks.ordering import declaration_mistakes
from leyden.hooks.signatures import takes
from leyden.module import LightningModule
from leyden.verification import missing_for_fit

__all__ = ["show_hooks_of"]

_KINDS = (Callback, LightningModule, LightningDataModule)
_TODAY = "2.x"


def show_hooks_of(target: str, *, as_json: bool) -> int:
    """Print what ``package.module:Class`` has of hooks; return 1 where it has mistakes.

    Raises `MisconfigurationException` for what cannot be imported or is nothing that has hooks.
    """
    examined = _examined(target)
    found = list(findings(examined))
    mistakes = [one.message for one in found if one.mistake]
    if examined.kind == "callback":
        mistakes += declaration_mistakes(examined.cls if examined.instance is None else examined.instance)
    notes = [one.message for one in found if not one.mistake]
    if examined.kind == "module":  # no mistake: others may be there to be derived from
        notes += missing_for_fit(examined.cls, examined.has)
    overridden = list(overrides_of(examined))
    if as_json:
        say_json(_as_data(target, examined, overridden, mistakes, notes))
    else:
        say(_in_words(target, examined, overridden, mistakes, notes))
    return 1 if mistakes else 0


def _examined(target: str) -> Examined:
    found = imported(target, _KINDS)
    if isinstance(found, type) and issubclass(found, _KINDS):
        return Examined(found)
    if isinstance(found, _KINDS):
        return Examined(type(found), found)
    what = f"the class {found.__qualname__}" if isinstance(found, type) else with_article(type(found).__qualname__)
    raise MisconfigurationException(
        f"{target} is {what}; expected a Callback, a LightningModule or a LightningDataModule."
    )


def _generation(override: Override) -> str:
    if override.hook.generation is not None:
        return override.hook.generation
    if override.fitted is None:
        return "unknown" if override.is_property else "none"
    return _TODAY if override.fitted.older is None else override.fitted.older.generation


def _takes(override: Override) -> str:
    if override.is_property:
        return "(a property)"
    return takes(override.method) if callable(override.method) else f"{override.method!r:.40}"


def _defined_in(override: Override, examined: Examined) -> str:
    name = override.hook.name
    if name in getattr(examined.instance, "__dict__", {}):
        return "the instance"
    return next((cls.__qualname__ for cls in examined.cls.__mro__ if name in vars(cls)), examined.cls.__qualname__)


def _in_words(
    target: str, examined: Examined, overridden: Sequence[Override], mistakes: Sequence[str], notes: Sequence[str]
) -> str:
    place = "" if examined.kind != "callback" else f", position {_position(examined)!r}"
    title = plain(f"{target}: {with_article(examined.kind)}{place}")
    rows = [
        [one.hook.name, _takes(one), _generation(one), _defined_in(one, examined), one.hook.summary]
        for one in overridden
    ]
    lines = [table(title, ["hook", "takes", "generation", "defined in", "called"], rows)]
    if not rows:
        lines = [title, "It overrides no hook."]
    lines += [paragraph(f"mistake: {one}") for one in mistakes] or ["No mistakes."]
    lines += [paragraph(f"note: {one}") for one in notes]
    return "\n".join(lines)


def _as_data(
    target: str, examined: Examined, overridden: Sequence[Override], mistakes: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "target": target,
        "kind": examined.kind,
        "position": _position(examined) if examined.kind == "callback" else None,
        "overrides": [
            {
                "hook": one.hook.name,
                "takes": _takes(one),
                "generation": _generation(one),
                "defined_in": _defined_in(one, examined),
                "called": one.hook.summary,
            }
            for one in overridden
        ],
        "mistakes": list(mistakes),
        "notes": list(notes),
    }


def _position(examined: Examined) -> str:
    owner: Any = examined.cls if examined.instance is None else examined.instance
    return owner.position if isinstance(owner.position, str) else "set by the instance"
