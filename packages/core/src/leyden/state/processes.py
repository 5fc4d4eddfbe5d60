"""What is each process's own in a checkpoint of several: gathered for the file, and dealt out as a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.rank_zero import rank_zero_warn
from leyden.runtime.shards import is_shard
from leyden.seed import isolate_rng, seed_generators
from leyden.state.rng import collect_rng

__all__ = ["differences", "for_this_process", "made_alone", "own_part"]

_LARGEST_BYTES = 1 << 20
"""A larger tensor is sent to the first process only where processes are bound to differ: weights are alike in all."""

_OWN = ("rng", "metrics", "gradients", "loops")
_OF_ALL = ("optimizer_states", "lr_schedulers", "loggers")

Path = tuple[Any, ...]


def own_part(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a checkpoint may be this process's own, in CPU memory: nearly all that is small, and gradients.

    ``...`` stands for what is not: shards, which are parts of one whole, the states of optimizers and schedulers, and
    large tensors but in gradients, running metrics and the places of the data.
    """
    return {key: ... if key in _OF_ALL else _pruned(value, every_size=key in _OWN) for key, value in checkpoint.items()}


def _pruned(value: Any, *, every_size: bool) -> Any:
    kind = type(value)
    if isinstance(value, Tensor):
        left_out = is_shard(value) or not (every_size or value.nbytes <= _LARGEST_BYTES)
        return ... if left_out else value.detach().cpu()
    if isinstance(value, dict):
        return {key: ... if key in _OF_ALL else _pruned(item, every_size=every_size) for key, item in value.items()}
    if kind in (list, tuple):
        pruned = [_pruned(item, every_size=every_size) for item in value]
        return ... if any(one is ... for one in pruned) else kind(pruned)
    return value


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes of the first process's part another one's: values by path, and the paths it does not have."""
    changed: list[Any] = []
    gone: list[Any] = []
    _compare(first, other, (), changed, gone)
    return {"changed": changed, "gone": gone}


def _compare(first: Any, other: Any, path: Path, changed: list[Any], gone: list[Any]) -> None:
    if first is ... or other is ...:
        return
    if isinstance(first, dict) and isinstance(other, dict):
        gone += [[*path, key] for key in first if key not in other]
        for key, value in other.items():
            if key in first:
                _compare(first[key], value, (*path, key), changed, gone)
            else:
                changed.append([[*path, key], value])
    elif not _same(first, other):
        changed.append([list(path), other])


def _same(first: Any, other: Any) -> bool:
    if type(first) is not type(other):
        return False
    if isinstance(first, Tensor):
        return first.dtype == other.dtype and first.shape == other.shape and torch.equal(first, other)
    if isinstance(first, dict):
        return first.keys() == other.keys() and all(_same(value, other[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(other) and all(map(_same, first, other))
    try:
        return bool(first == other)
    except ValueError:  # of an array, which is written again rather than compared
        return False


def made_alone(world_size: int) -> list[dict[str, Any] | None]:
    """Return what a checkpoint says of processes that the first one could not ask, after an error."""
    return [{"changed": [], "gone": []}, *[None] * (world_size - 1)]


def for_this_process(checkpoint: dict[str, Any], rank: int, world_size: int, *, goes_on: bool) -> dict[str, Any]:
    """Return the checkpoint as process `rank` of `world_size` takes it; warns of what a fit that goes on loses by that.

    As many processes as wrote it have their own back. With another number all take the first one's; random numbers are
    those of the process of the same rank, or drawn from the first one's; gradients of an open accumulation window are
    the mean; running sums of metrics begin anew.
    """
    kept: Sequence[Mapping[str, Any] | None] = checkpoint.get("processes") or made_alone(1)
    mine = {name: value for name, value in checkpoint.items() if name != "processes"}
    if len(kept) == world_size:
        own = kept[rank]
        if own is not None:
            return _changed(mine, own)
        if goes_on:
            rank_zero_warn(
                f"the checkpoint was made by one of {world_size} processes alone, after an error: the others take its "
                "state and random numbers drawn from its own, so that the run does not go on exactly."
            )
        return {**mine, "rng": _derived(mine.get("rng"), rank)} if "rng" in mine else mine
    others = [_changed(mine, one) for one in kept[1:] if one is not None]
    parts = [mine, *others]
    if goes_on:
        _warn_of_another_number(mine, len(kept), world_size)
    loops = mine.get("loops")
    short = loops["fit_loop"].get("cut_short") if isinstance(loops, Mapping) and _is_progress(loops) else None
    mine = _with_another_number(mine, parts, rank)
    if short is not None:
        cuts = [part["loops"]["fit_loop"]["cut_short"]["run"] for part in parts]
        run = _with_another_number(short["run"], cuts, rank)
        fit_loop = {**mine["loops"]["fit_loop"], "cut_short": {**short, "run": run}}
        mine["loops"] = {**mine["loops"], "fit_loop": fit_loop}
    return mine


def _is_progress(loops: Any) -> bool:
    return isinstance(loops, Mapping) and isinstance(loops.get("fit_loop"), Mapping)


def _changed(checkpoint: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with another process's own values; containers on the way to them are copied, nothing else."""
    changed = dict(checkpoint)
    copied: dict[Path, dict[Any, Any]] = {(): changed}

    def container_of(path: Sequence[Any]) -> dict[Any, Any]:
        for length in range(1, len(path)):
            key = tuple(path[:length])
            if key not in copied:
                copied[key] = copied[key[:-1]][key[-1]] = dict(copied[key[:-1]][key[-1]])
        return copied[tuple(path[:-1])]

    for path in own["gone"]:
        del container_of(path)[path[-1]]
    for path, value in own["changed"]:
        container_of(path)[path[-1]] = value
    return changed


def _with_another_number(mine: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], rank: int) -> dict[str, Any]:
    run = dict(mine)
    if mine.get("rng"):
        run["rng"] = parts[rank]["rng"] if rank < len(parts) else _derived(mine["rng"], rank)
    gradients = [part["gradients"] for part in parts if part.get("gradients")]
    if len(gradients) > 1:
        run["gradients"] = {name: _mean([one[name] for one in gradients if name in one]) for name in gradients[0]}
    if isinstance(mine.get("metrics"), Mapping):
        run["metrics"] = {**mine["metrics"], "records": [], "held": []}
    return run


def _mean(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.to(gradients[0].device) for one in gradients]).mean(0)


def _derived(rng: Mapping[str, Any] | None, rank: int) -> dict[str, Any]:
    """Return generators for a process without any: others than those of the first, and the same each time."""
    state = b"" if not rng else rng["torch"].cpu().numpy().tobytes()
    seed = int.from_bytes(hashlib.sha256(state + rank.to_bytes(8, "little")).digest()[:4], "little")
    with isolate_rng():
        seed_generators(seed)
        return collect_rng()


def _warn_of_another_number(checkpoint: Mapping[str, Any], before: int, now: int) -> None:
    loops, metrics = checkpoint.get("loops"), checkpoint.get("metrics")
    loop: Mapping[str, Any] = loops["fit_loop"] if isinstance(loops, Mapping) and _is_progress(loops) else {}
    lost: list[str] = []
    if loop.get("batches_done"):
        lost.append(f"as many batches as were done of the epoch ({loop['batches_done']}) are left out in each process")
    if any(_running(metrics)):
        lost.append("the epoch's metrics are those of the rest of it")
    if lost:
        rank_zero_warn(
            f"a run of {before} process(es) goes on with {now} within an epoch: {', and '.join(lost)}. For the same "
            "rows let a batch have as many over all processes as before; checkpoints of an epoch's end lose nothing."
        )


def _running(metrics: Any) -> Iterator[bool]:
    for record in metrics.get("records", ()) if isinstance(metrics, Mapping) else ():
        yield bool(record["values"].get("count"))
