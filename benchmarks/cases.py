"""The table of what is measured and what must be reached. Everything else in this package reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CALLS_LIMIT",
    "CASES",
    "DISCOVERY_LIMIT_MS",
    "IMPORT_LIMIT",
    "MEMORY_LIMIT_KIB",
    "PRODUCTION_LIMIT",
    "Case",
    "Target",
    "case_named",
]


@dataclass(frozen=True, slots=True)
class Target:
    """At most ``limit``: a multiple of the hand-written step's time, or microseconds above it."""

    limit: float
    unit: Literal["ratio", "us_above"] = "ratio"

    def __str__(self) -> str:
        return f"≤ {self.limit:.2f}" if self.unit == "ratio" else f"≤ +{self.limit:.0f} µs"


@dataclass(frozen=True, slots=True)
class Case:
    """One run to be timed. ``logged``: metrics logged in a step, each on_step and on_epoch, to a CSV file."""

    name: str
    title: str
    target: Target
    stage: Literal["fit", "validate", "predict"] = "fit"
    idle_callbacks: int = 0
    batch_callbacks: int = 0
    logged: int = 0


CASES: tuple[Case, ...] = (
    Case("bare", "bare step", Target(1.00)),
    Case("idle-10", "+ 10 callbacks that override nothing", Target(1.00), idle_callbacks=10),
    Case("idle-100", "+ 100 callbacks that override nothing", Target(1.00), idle_callbacks=100),
    Case("batch-hooks-10", "+ 10 callbacks with both batch hooks", Target(1.10), batch_callbacks=10),
    Case("log-1", "+ one self.log (step and epoch), CSVLogger", Target(1.25), logged=1),
    Case("log-5", "+ five self.log (step and epoch), CSVLogger", Target(1.60), logged=5),
    Case("validate", "validate", Target(5.0, "us_above"), stage="validate"),
    Case("predict", "predict", Target(5.0, "us_above"), stage="predict"),
)

CALLS_LIMIT = 110  # Python functions entered in a step, see calls.py
DISCOVERY_LIMIT_MS = 5  # CPU time of Trainer(...) that discovers over one that is given the same, see discovery.py
IMPORT_LIMIT = 1.15  # CPU time of `import leyden` over that of `import torch`
PRODUCTION_LIMIT = 1.20  # CPU time of the production run over that of the loop by hand, see production.py
MEMORY_LIMIT_KIB = 1024  # what counts as flat: resident growth over the last 80,000 of 100,000 steps


def case_named(name: str) -> Case:
    """The case with this name; an unknown one is an error that lists them."""
    for case in CASES:
        if case.name == name:
            return case
    raise SystemExit(f"There is no case {name!r}. Cases: {', '.join(case.name for case in CASES)}.")
