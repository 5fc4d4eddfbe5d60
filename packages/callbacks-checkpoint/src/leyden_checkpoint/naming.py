"""File names of checkpoints: templates such as ``{epoch}-{val_loss:.2f}``, and names made safe and unique."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

import torch

from leyden_checkpoint.files import absolute, join, without_slashes

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["checkpoint_name", "first_free_name", "folder_of", "template_problems"]


def checkpoint_name(
    template: str | None,
    metrics: Mapping[str, Any],
    *,
    insert_names: bool = True,
    join: str = "-",
    equals: str = "=",
    prefix: str | None = None,
) -> str:
    """Return `template` with the metrics' values in place of their names; no extension, no folder.

    An empty template is ``{epoch}-{step}``. With `insert_names` each value follows its name (``epoch=3``), in which
    slashes become underscores: a metric called ``val/loss`` makes no folder. A metric that is missing reads ``nan``.

    Example:
        >>> checkpoint_name("{epoch:02d}-{val/loss:.2f}", {"epoch": 3, "val/loss": torch.tensor(0.1234)})
        'epoch=03-val_loss=0.12'
        >>> checkpoint_name(None, {"epoch": 3, "step": 40}, insert_names=False)
        '3-40'
    """
    parts: list[str] = [prefix, join] if prefix else []
    for text, field, spec, _ in Formatter().parse(template or f"{{epoch}}{join}{{step}}"):
        parts.append(text)
        if field is None:
            continue
        if insert_names:
            parts += [without_slashes(field), equals]
        parts.append(_format(metrics.get(field, math.nan), spec or ""))
    return "".join(parts)


def first_free_name(name_of: Callable[[int | None], str], exists: Callable[[str], bool], first_version: int) -> str:
    """Return ``name_of(None)``, or with the first version from `first_version` on under which nothing `exists`."""
    name = name_of(None)
    version = first_version
    while exists(name):
        name = name_of(version)
        version += 1
    return name


def folder_of(trainer: Trainer) -> str:
    """Return where checkpoints go by default: beside what the first logger writes, else in the root folder."""
    if not trainer.loggers:
        return join(absolute(trainer.default_root_dir), "checkpoints")
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    folder = absolute(logger.save_dir or trainer.default_root_dir)
    for part in (logger.name or "", version, "checkpoints"):
        folder = join(folder, part) if part else folder
    return folder


def template_problems(template: str) -> list[str]:
    """Return what is wrong with a file name template, each as a sentence; nothing when it is fine."""
    if os.path.isabs(template) or ".." in template.replace("\\", "/").split("/"):
        return [f"filename={template!r} leads out of its folder; give the folder as dirpath"]
    try:
        fields = [(field, spec or "", conversion) for _, field, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        return [f"filename={template!r} is no template ({error}); braces hold a metric, as in '{{val_loss:.2f}}'"]
    problems = []
    for field, spec, conversion in fields:
        if field is None:
            continue
        if not field or conversion:
            problems.append(f"filename={template!r} has a field without a plain name; write it as '{{val_loss:.2f}}'")
        elif not _suits_a_number(spec):
            problems.append(f"filename={template!r}: {spec!r} formats no number; examples that do: '.2f', '03d', '.1e'")
    return problems


def _suits_a_number(spec: str) -> bool:
    for example in (0.5, 1):
        try:
            format(example, spec)
        except ValueError:
            continue
        return True
    return False


def _format(value: Any, spec: str) -> str:
    number = value.item() if isinstance(value, torch.Tensor) else value
    if not isinstance(number, int | float):
        return without_slashes(str(number))
    try:
        text = format(number, spec)
    except ValueError:  # a whole-number format such as 03d and a metric, which is a float
        text = format(round(number), spec) if math.isfinite(number) else str(number)
    # A space-padded format would leave blanks in the name of a file.
    return text.strip()
