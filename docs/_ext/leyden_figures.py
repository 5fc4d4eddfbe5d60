"""The site's tables of figures, from the result files that the benchmarks wrote: no figure is typed by hand.

``{figures} NAME`` writes the table of `TABLES` with that name from the newest file that has such figures, and below it
the day, the machine and the commit they are of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from leyden_site import table
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["TABLES", "newest", "setup"]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FRAMEWORKS = ("leyden", "lightning", "ignite")
Results = dict[str, Any]


def newest(pattern: str, has: Callable[[Results], object] = bool) -> tuple[Path, Results]:
    """Return the newest file of this name that `has` what is looked for, and what is in it."""
    for path in sorted(RESULTS.glob(pattern), reverse=True):
        results = json.loads(path.read_text(encoding="utf-8"))
        if has(results):
            return path, results
    raise LookupError(f"no file {pattern} in {RESULTS} has these figures; `python -m benchmarks` writes one")


def _source(path: Path, results: Results) -> str:
    machine = results.get("machine", results)
    (day,) = re.findall(r"\d{4}-\d\d-\d\d", path.name)
    facts = [day, *(f"{machine[name]}" for name in ("processor",) if name in machine)]
    facts += [f"{machine['cores']} cores"] if "cores" in machine else []
    facts += [f"{name} {machine[name]}" for name in ("torch", "python", "commit") if name in machine]
    return f"<small>{', '.join(facts)}; `benchmarks/results/{path.name}`</small>"


def _by_framework(part: str) -> tuple[list[str], list[Any], str]:
    """Return each framework's name and version, its newest figures of this part, and the files these are from."""
    names, found, sources = [], [], {}
    for framework in FRAMEWORKS:
        path, results = newest("2*.json", partial(_figures_of, framework, part))
        figures = _figures_of(framework, part, results)
        versions = {run["framework"]: run["version"] for run in results["figures"]}
        names.append(f"{framework.capitalize()} {versions[framework]}")
        found.append(figures)
        sources[path] = results
    return names, found, "\\\n".join(_source(path, results) for path, results in sources.items())


def _figures_of(framework: str, part: str, results: Results) -> Any:
    """Return the figures of one framework in a file: of all steps, or of a part that holds them by its name."""
    if part in ("production", "imports"):
        return results.get(part, {}).get(framework)
    runs = [run for run in results["figures"] if run["framework"] == framework]
    return runs[0] if runs and len(runs[0]["timings"]) > 1 else None


def _steps() -> str:
    names, found, sources = _by_framework("steps")
    _, results = newest("2*.json", partial(_figures_of, "leyden", "steps"))
    rows = []
    for name, target in results["targets"].items():
        above = target["unit"] == "us_above"
        limit = f"+{target['limit']:.0f} µs" if above else f"{target['limit']:.2f}"
        rows.append([target["title"], limit, *(_timing(run["timings"].get(name), above) for run in found)])
    by_hand = f"Python calls in a bare step ({results['handwritten_calls']:.0f} by hand)"
    rows.append([by_hand, "110", *(f"{run['calls'].get('bare', nan):.0f}" for run in found)])
    return f"{table(['', 'at most', *names], rows)}\n\n{sources}"


def _timing(timing: dict[str, float] | None, above: bool) -> str:
    if timing is None:
        return "–"
    return f"{round(timing['above_us'], 1) + 0.0:+.1f} µs" if above else f"{timing['ratio']:.2f}"


def _run() -> str:
    names, runs, sources = _by_framework("production")
    cpu = ["CPU time of the run, over the loop by hand", *(_over(run, "cpu") for run in runs)]
    wall = ["the same by the clock", *(_over(run, "wall") for run in runs)]
    return f"{table(['', *names], [cpu, wall])}\n\n{sources}"


def _imports() -> str:
    names, times, sources = _by_framework("imports")
    rows = [["CPU time of the import, over that of `import torch`", *(f"{time['ratio']:.2f}" for time in times)]]
    return f"{table(['', *names], rows)}\n\n{sources}"


def _over(run: dict[str, float], clock: str) -> str:
    return f"{run[f'{clock}_ratio']:.2f} ({run[f'{clock}_ms']:.0f} ms)"


def _parts() -> str:
    path, results = newest("2*.json", lambda found: len(found["figures"][0]["timings"]) > 1)
    above = {name: timing["above_us"] for name, timing in results["figures"][0]["timings"].items()}
    bare = above["bare"]
    costs = {
        "a callback that overrides none of the hooks of a batch": (above["idle-100"] - bare) / 100,
        "a hook of every batch that does nothing": (above["batch-hooks-10"] - bare) / 20,
        "a `self.log` of a tensor with `on_step` and `on_epoch`, written by a `CSVLogger`": (above["log-5"] - bare) / 5,
        "a batch of `validate`, over the loop by hand": above["validate"],
        "a batch of `predict`, over the loop by hand": above["predict"],
    }
    rows = [[what, f"{round(cost, 2) + 0.0:.2f} µs"] for what, cost in costs.items()]
    if discovery := results["discovery"]:
        what = f"discovery by {discovery['factories']} families in a process's first `Trainer(...)`, once"
        rows.append([what, f"{discovery['first_ms']:.1f} ms"])
    if memory := results["memory"]:
        growth = memory["late_kib"] - memory["early_kib"]
        rows.append([f"memory, over the last four fifths of {memory['steps']:,} steps", f"{growth:+d} KiB"])
    return f"{table(['what', 'costs'], rows)}\n\n{_source(path, results)}"


def _bars() -> str:
    path, results = newest("bars-*.json")
    where = {"terminal": "on a terminal", "pipe": "into a pipe or file"}
    rows = [
        [f"`{bar}`", where[output], f"{middle:.3f} ({low:.3f} to {high:.3f})"]
        for output, bars in results["figures"].items()
        for bar, (low, middle, high) in bars.items()
    ]
    headers = ["bar", "", f"{results['steps']:,} bare steps with it, over those without: median (quartiles)"]
    return f"{table(headers, rows)}\n\n{_source(path, results)}"


def _averages() -> str:
    path, results = newest("averaging-*.json")
    columns = {"callback_us": "`EMAWeightAveraging`", "update_us": "the `_foreach` update alone"}
    columns["AveragedModel_us"] = "`AveragedModel.update_parameters`"
    rows = [[model, *(f"{run[name]:.0f} µs" for name in columns)] for model, run in results["figures"].items()]
    return f"{table(['a step of', *columns.values()], rows)}\n\n{_source(path, results)}"


def _saving() -> str:
    path, results = newest("storage_memory-*.json")
    size = f"{results['parameters'] / 1e6:.0f} million parameters with Adam"
    rows = [[f"peak memory of saving {size}, over `torch.save`", f"{results['peak_ratio']:.3f}"]]
    return f"{table(['what', 'ratio'], rows)}\n\n{_source(path, results)}"


TABLES = {
    "steps": _steps,
    "run": _run,
    "imports": _imports,
    "parts": _parts,
    "bars": _bars,
    "averages": _averages,
    "saving": _saving,
}


class Figures(SphinxDirective):
    """``{figures} NAME``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        for path in _files():
            self.env.note_dependency(path)
        return self.parse_text_to_nodes(TABLES[self.arguments[0]]())


def _files() -> Iterable[Path]:
    return sorted(RESULTS.glob("*.json"))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directive."""
    app.add_directive("figures", Figures)
    return {"version": "1", "parallel_read_safe": True}
