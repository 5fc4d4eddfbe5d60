"""The figures as a table for people and as dated JSON for comparisons later on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import (
    CALLS_LIMIT,
    CASES,
    DISCOVERY_LIMIT_MS,
    IMPORT_LIMIT,
    MEMORY_LIMIT_KIB,
    PRODUCTION_LIMIT,
    Case,
)
from benchmarks.discovery import DiscoveryTime
from benchmarks.fresh import ImportTime, Memory
from benchmarks.interleave import Timing
from benchmarks.measure import Figures
from benchmarks.production import Production

__all__ = ["RESULTS", "Results", "machine_facts", "table", "write"]

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Results:
    """One session's figures. Leyden's come first in ``figures``."""

    figures: list[Figures] = field(default_factory=list)
    handwritten_calls: float | None = None
    imports: dict[str, ImportTime] = field(default_factory=dict)
    discovery: DiscoveryTime | None = None
    memory: Memory | None = None
    production: dict[str, Production] = field(default_factory=dict)


def reached(case: Case, timing: Timing) -> bool:
    """Whether the timing meets the case's target, at the precision the target is written with."""
    if case.target.unit == "ratio":
        return round(timing.ratio, 2) <= case.target.limit
    return round(timing.above_us, 1) <= case.target.limit


def table(results: Results) -> str:
    """Rows of: what, target, reached, then one column per framework."""
    frameworks = [figures.framework for figures in results.figures]
    rows = [("", "target", "", *frameworks), *_timing_rows(results), *_production_rows(results), *_other_rows(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _timing_rows(results: Results) -> Iterator[tuple[str, ...]]:
    for case in CASES:
        timings = [figures.timings.get(case.name) for figures in results.figures]
        if not any(timings):
            continue
        first = timings[0] if results.figures[0].framework == "leyden" else None
        mark = "" if first is None else _mark(reached(case, first))
        yield case.title, str(case.target), mark, *(_cell(case, timing) for timing in timings)


def _cell(case: Case, timing: Timing | None) -> str:
    if timing is None:
        return "–"
    above = f"{timing.above_us:+.1f} µs"
    if case.target.unit == "us_above":
        return f"{above} ({timing.ratio:.2f} of {timing.handwritten_us:.0f} µs)"
    return f"{timing.ratio:.2f} ({above} on {timing.handwritten_us:.0f})"


def _production_rows(results: Results) -> Iterator[tuple[str, ...]]:
    if not results.production:
        return
    runs = [results.production.get(figures.framework) for figures in results.figures]
    mark = "" if runs[0] is None else _mark(round(runs[0].cpu_ratio, 2) <= PRODUCTION_LIMIT)
    cpu = [f"{run.cpu_ratio:.2f} ({run.cpu_ms:.0f} of {run.handwritten_cpu_ms:.0f} ms)" if run else "–" for run in runs]
    yield "production run on the digits", f"≤ {PRODUCTION_LIMIT:.2f}", mark, *cpu
    wall = [
        f"{run.wall_ratio:.2f} ({run.wall_ms:.0f} of {run.handwritten_wall_ms:.0f} ms)" if run else "–" for run in runs
    ]
    yield "  by the clock, the disk's flushes with it", "", "", *wall


def _other_rows(results: Results) -> Iterator[tuple[str, ...]]:
    for name, what in (("bare", "bare"), ("idle-100", "100 idle callbacks")):
        numbers = [figures.calls.get(name) for figures in results.figures]
        if any(numbers):
            mark = "" if results.figures[0].framework != "leyden" else _mark((numbers[0] or 0) <= CALLS_LIMIT)
            cells = ["–" if number is None else f"{number:.2f}".rstrip("0").rstrip(".") for number in numbers]
            by_hand = f" (by hand {results.handwritten_calls:.0f})" if results.handwritten_calls else ""
            yield f"Python calls a step, {what}{by_hand}", f"≤ {CALLS_LIMIT}", mark, *cells
    if results.imports:
        times = [results.imports.get(figures.framework) for figures in results.figures]
        mark = "" if times[0] is None else _mark(round(times[0].ratio, 2) <= IMPORT_LIMIT)
        cells = ["–" if time is None else f"{time.ratio:.2f} ({time.module_s:.2f} s)" for time in times]
        yield "import, over import torch", f"≤ {IMPORT_LIMIT}", mark, *cells
    if results.discovery:
        blanks = [""] * (len(results.figures) - 1)
        for when, time_ms in (("first", results.discovery.first_ms), ("further", results.discovery.further_ms)):
            title = f"discovery by {results.discovery.factories} families, a process's {when} Trainer(...)"
            mark = _mark(round(time_ms, 1) <= DISCOVERY_LIMIT_MS)
            yield title, f"≤ {DISCOVERY_LIMIT_MS} ms", mark, f"{time_ms:.1f} ms", *blanks
    if results.memory:
        memory = results.memory
        blanks = [""] * (len(results.figures) - 1)
        growth = f"{memory.growth_kib:+d} KiB, {memory.late_blocks - memory.early_blocks:+d} blocks"
        title = f"memory, last {memory.steps * 4 // 5:,} of {memory.steps:,} steps"
        yield title, f"≤ {MEMORY_LIMIT_KIB} KiB", _mark(memory.growth_kib <= MEMORY_LIMIT_KIB), growth, *blanks


def _mark(good: bool) -> str:
    return "reached" if good else "MISSED"


def machine_facts() -> dict[str, Any]:
    """What a figure depends on: processor, versions, threads, how busy the machine was, and which commit ran."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "threads": 1,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    for line in cpu.read_text().splitlines() if cpu.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write(results: Results, folder: Path = RESULTS) -> Path:
    """Write the figures and the machine's facts to a file named by the time in UTC; its path."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%dT%H%M%SZ}.json"
    targets = {case.name: {"title": case.title, "limit": case.target.limit, "unit": case.target.unit} for case in CASES}
    head = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "targets": targets}
    path.write_text(json.dumps({**head, **asdict(results)}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
