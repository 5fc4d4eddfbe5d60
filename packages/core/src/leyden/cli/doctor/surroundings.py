"""The working folder, and the environment variables that Leyden reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from tempfile import TemporaryFile

from leyden.cli.doctor.section import Section
from leyden.cli.output import size
from leyden.discovery.switches import read_switch
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.seed import checked_seed

__all__ = ["VARIABLES", "examine_folder", "examine_variables"]

_LITTLE_BYTES = 1_000_000_000


def _is_flag(value: str) -> None:
    if value not in ("0", "1"):
        raise ValueError(f"LEYDEN_SEED_WORKERS={value!r}: expected 0 or 1.")


VARIABLES: dict[str, Callable[[str], object] | None] = {
    "LEYDEN_CALLBACKS": lambda value: read_switch(),
    "LEYDEN_CONFIG": None,  # whoever reads the configuration says what is wrong with it
    "LEYDEN_SEED": checked_seed,
    "LEYDEN_SEED_WORKERS": _is_flag,
}
"""Every variable that Leyden reads, with what raises an error for a value that it cannot have."""


def examine_variables() -> Section:
    """Look at the variables that begin with ``LEYDEN_``."""
    section = Section("Environment")
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith("LEYDEN_"):
            continue
        section.fact(name, value)
        if name not in VARIABLES:
            near = did_you_mean(name.upper(), VARIABLES)
            section.trouble(
                f"{name} is set, and nothing reads it.{near}", f"Unset it; Leyden reads {', '.join(VARIABLES)}."
            )
            continue
        check = VARIABLES[name]
        try:
            if check is not None:
                check(value)
        except (MisconfigurationException, ValueError) as error:
            section.trouble(str(error), f"Mend {name}, or unset it.")
    return section


def examine_folder() -> Section:
    """Look at the folder that runs write to where no other is given."""
    section = Section("Folder")
    folder = os.getcwd()
    section.fact("default_root_dir", folder)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        section.trouble(
            f"{folder} cannot be written to ({error.strerror}), and runs write logs and checkpoints there.",
            "Start in another folder, or give Trainer(default_root_dir=...).",
        )
        return section
    free = shutil.disk_usage(folder).free
    section.fact("free", size(free))
    if free < _LITTLE_BYTES:
        section.trouble(
            f"the disk of {folder} has {size(free)} free; a checkpoint of a model needs about three times its weights.",
            "Free some, or give Trainer(default_root_dir=...) on another disk.",
        )
    return section
