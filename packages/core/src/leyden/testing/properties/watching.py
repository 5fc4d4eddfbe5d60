"""What a callback does to the run that it is in, hook by hook: changes, waiting for the device, calls."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from leyden.testing.costs import Costs
from leyden.testing.differences import first_difference
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import Exam, Outcome
from leyden.testing.watching import Watching

__all__ = ["cost", "only_watches", "synchronisation"]


def only_watches(exam: Exam) -> str:
    """No hook changes random numbers, weights, gradients, modes or optimizers; the run ends as it does without."""
    claimed = exam.claims.only_watches
    callback = exam.straight.callbacks[0]
    if claimed is False:
        raise NotChecked("only_watches=False")
    if claimed is None and (callback.changes_weights or callback.changes_saved_weights):
        raise NotChecked("it says that it changes weights")
    found = _watched(exam).changes[:1]
    if not found:
        found += _against_bare(exam)
    if found and claimed:
        raise Broken(f"{found[0]}; draw from a generator of its own, and change copies")
    if found:
        raise NotChecked(f"it does not only watch: {found[0]}; claim only_watches=True if it should")
    return ""


def synchronisation(exam: Exam) -> str:
    """Hooks of each batch read no tensor's value, off the reporting steps: they would wait for the device."""
    every = exam.every_n_steps
    if every == 1:
        raise NotChecked("it reports at each step")
    if found := _watched(exam).waits:
        raise Broken(
            f"{found[0]}; keep the tensor and read it at a reporting step, every {every} steps here "
            "(reports_every_n_steps=)"
        )
    return ""


def cost(exam: Exam) -> str:
    """The hooks of a step make few Python calls where it does not report."""
    _ = exam.straight
    costs: Costs = exam.kept["costs"]
    notes = []
    for stage, calls in costs.of_stages().items():
        total = sum(calls.values())
        if total > exam.claims.calls_per_step:
            most = max(calls, key=lambda hook: calls[hook])
            raise Broken(
                f"the hooks of a {stage} step make {total} Python calls, {calls[most]} of them in {most}; at most "
                f"{exam.claims.calls_per_step} are allowed (calls_per_step=). Do once, when a fit or an epoch begins, "
                "what is the same at each step"
            )
        if total:
            notes.append(f"{total} in a {stage} step")
    return f"Python calls: {', '.join(notes)}" if notes else "nothing is called at a step"


def _watched(exam: Exam) -> Watching:
    if "watching" not in exam.kept:
        _ = exam.straight
        exam.empty_folder()
        watching = Watching(exam)
        callback = watching.made(exam.claims.fresh)
        outcome = exam.fit([callback], watch=watching.watch(callback))
        for stage in ("test", "predict"):
            if stage in exam.claims.stages:
                with suppress(Exception):  # which `stages` tells of
                    getattr(outcome.trainer, stage)(outcome.module)
        exam.kept["watching"] = watching
    found: Watching = exam.kept["watching"]
    return found


def _against_bare(exam: Exam) -> list[str]:
    """What differs from a run without it, at the end and in what others log, where no hook was seen to change it."""
    mine, bare = exam.straight, exam.bare
    for name in ("state_dict", "optimizer_states", "rng"):
        if name in mine.end and (differs := first_difference(mine.end[name], bare.end[name])):
            return [f"the run does not end as it does without it: {name}{differs}"]
    for own, others in ((mine.metrics, bare.metrics), (_logged(exam, mine), _logged(exam, bare))):
        if differs := first_difference({name: own.get(name) for name in others}, others):
            return [f"what others log is not what it is without it: {differs}"]
    return []


def _logged(exam: Exam, run: Outcome) -> dict[str, list[Any]]:
    """Return the values by the metric's name; steps are left out, since a metric called ``step`` sets them."""
    found: dict[str, list[Any]] = {}
    for _, row in run.rows:
        for name, value in exam.without_varying(row).items():
            if name != "epoch":
                found.setdefault(name, []).append(value)
    return found
