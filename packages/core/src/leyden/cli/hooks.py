"""``leyden hooks``: the contract, one hook of it, or what a class makes of it."""

from __future__ import annotations

import argparse
from typing import Any

from leyden.cli.commands import Commands, new_command
from leyden.cli.hooks_of import show_hooks_of
from leyden.cli.output import paragraph, say, say_json, table
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hooks.contract import HOOKS, REMOVED_MODULE_METHODS, Hook, LogRule, OlderSignature
from leyden.hooks.spelling import near_miss

__all__ = ["add_to", "arguments_in_words", "log_in_words", "receivers"]


def add_to(commands: Commands) -> None:
    """Add ``hooks``."""
    command = new_command(
        commands,
        "hooks",
        "Show the hooks, one of them, or those of a class.",
        "Without arguments: every hook in the order of a run, and those of older generations. With --of the class is "
        "imported, not made an instance of; exits with 1 where it has mistakes.",
        _hooks,
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("name", metavar="NAME", nargs="?", help="a hook, such as on_train_batch_end")
    which.add_argument(
        "--of",
        metavar="MODULE:CLASS",
        help="a callback, module or datamodule: package.module:Class or path/to/file.py:Class",
    )


def arguments_in_words(hook: Hook) -> str:
    """Return what today's generation passes after trainer and pl_module; what is passed only at times with ``=…``."""
    required = len(hook.arguments) - hook.optional
    return ", ".join(name if index < required else f"{name}=…" for index, name in enumerate(hook.arguments))


def receivers(hook: Hook) -> list[str]:
    """Return who has a hook: ``"callbacks"``, ``"module"``, ``"datamodule"``."""
    who = {"callbacks": hook.callbacks, "module": hook.module, "datamodule": hook.datamodule}
    return [name for name, receives in who.items() if receives]


def log_in_words(rule: LogRule | None) -> str:
    """Return what `self.log` means in a hook."""
    if rule is None:
        return "not here"
    if not rule.step_allowed:
        return "on_epoch=True, the only form here"
    return f"on_step={rule.on_step}, on_epoch={rule.on_epoch} unless you say otherwise"


def _hooks(arguments: argparse.Namespace) -> int:
    if arguments.of is not None:
        return show_hooks_of(arguments.of, as_json=arguments.json)
    if arguments.name is None:
        _show_contract(as_json=arguments.json)
    else:
        hook = _hook_named(arguments.name)
        if arguments.json:
            say_json(_as_data(hook))
        else:
            say(_in_words(hook))
    return 0


def _hook_named(name: str) -> Hook:
    if name in HOOKS:
        return HOOKS[name]
    if name in REMOVED_MODULE_METHODS:
        raise MisconfigurationException(
            f"{name} was a method of 1.x that nothing calls any more. Instead, {REMOVED_MODULE_METHODS[name]}."
        )
    meant = near_miss(name, HOOKS)
    hint = did_you_mean(name, HOOKS) if meant is None else f" Did you mean {meant!r}?"
    raise MisconfigurationException(f"{name!r} is no hook.{hint} `leyden hooks` lists them all.")


def _show_contract(*, as_json: bool) -> None:
    if as_json:
        say_json([_as_data(hook) for hook in HOOKS.values()])
        return
    today = [hook for hook in HOOKS.values() if hook.generation is None]
    rows = [[hook.name, arguments_in_words(hook), hook.summary, ", ".join(receivers(hook))] for hook in today]
    say(table("Hooks, in the order in which a run calls them", ["hook", "gets", "called", "who has it"], rows))
    alone = ", ".join(hook.name for hook in today if hook.callbacks and not hook.passes_caller)
    say(paragraph(f"Callbacks get trainer and pl_module first (not in {alone}), and before the module has its turn."))
    older = [
        [hook.name, one.generation, ", ".join(one.arguments), one.replacement]
        for hook in HOOKS.values()
        for one in [*_whole_hook_as_older(hook), *hook.older]
    ]
    headers = ["hook", "generation", "arguments", "use instead"]
    say("\n" + table("Older generations, all of which run", headers, older))


def _whole_hook_as_older(hook: Hook) -> list[OlderSignature]:
    """Return a hook that today's generation has not as the one signature it had."""
    if hook.generation is None:
        return []
    return [OlderSignature(hook.full_arguments(module=False), hook.generation, hook.replacement or "")]


def _in_words(hook: Hook) -> str:
    """Return all there is to say of one hook; the signatures can be copied."""
    lines = [f"{hook.name}: {hook.summary}"]
    rows = [(who, _signature(hook, module=who != "callbacks")) for who in receivers(hook)]
    if hook.generation is not None:
        rows.append(("generation", f"{hook.generation}; use {hook.replacement} instead"))
    rows += [("older", f"{one.generation}: ({', '.join(one.arguments)}); {_advice(one)}") for one in hook.older]
    if hook.optional:
        names = ", ".join(hook.arguments[-hook.optional :])
        rows.append((names, "passed where there are several dataloaders"))
    rows.append(("self.log", log_in_words(hook.log)))
    before, after = _neighbours(hook)
    rows += [("comes after", before)] if before else []
    rows += [("comes before", after)] if after else []
    lines += [f"  {label:<16}{text}" for label, text in rows]
    return "\n".join(paragraph(line, indent=18) for line in lines)


def _signature(hook: Hook, *, module: bool) -> str:
    names = hook.full_arguments(module=module)
    required = len(names) - hook.optional
    parts = ["self", *names[:required], *(f"{name}=0" for name in names[required:])]
    return f"def {hook.name}({', '.join(parts)})"


def _advice(older: OlderSignature) -> str:
    told = f" (told by the last argument's name: {', '.join(older.told_by)})" if older.told_by else ""
    return f"use {older.replacement} instead{told}"


def _neighbours(hook: Hook) -> tuple[str | None, str | None]:
    """Return today's hooks before and after this one in the contract."""
    names = [name for name, one in HOOKS.items() if one.generation is None or name == hook.name]
    place = names.index(hook.name)
    return (names[place - 1] if place else None), (names[place + 1] if place + 1 < len(names) else None)


def _as_data(hook: Hook) -> dict[str, Any]:
    rule = hook.log
    return {
        "name": hook.name,
        "called": hook.summary,
        "arguments": {
            who: list(hook.full_arguments(module=who != "callbacks")) for who in receivers(hook)
        },
        "passed_at_times": list(hook.arguments[len(hook.arguments) - hook.optional :]),
        "log": None if rule is None else {
            "step_allowed": rule.step_allowed, "on_step": rule.on_step, "on_epoch": rule.on_epoch,
        },
        "generation": hook.generation,
        "use_instead": hook.replacement,
        "older": [
            {"generation": one.generation, "arguments": list(one.arguments), "use_instead": one.replacement}
            for one in hook.older
        ],
    }  # fmt: skip
