"""Checkpoints that Lightning wrote, read as ours: what of a run is in them, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.rank_zero import rank_zero_warn

__all__ = ["LIGHTNING_VERSION", "LIGHTNING_VERSION_KEY", "from_lightning", "is_of_lightning", "warn_of_lightning"]

LIGHTNING_VERSION_KEY = "pytorch-lightning_version"
LIGHTNING_VERSION = "2.6.0"
"""Stored in our checkpoints, without which Lightning reads no weights: the version whose layout ours is nearest to."""

_SCALERS = ("MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin", "native_amp_scaling_state")
_STOPPING_REASONS = (
    "not_stopped", "stopping_threshold", "divergence_threshold", "patience_exhausted", "non_finite_metric",
)  # fmt: skip


def is_of_lightning(checkpoint: Mapping[str, Any]) -> bool:
    """Whether Lightning wrote it; ours name a version of Lightning too, for Lightning to read them."""
    return LIGHTNING_VERSION_KEY in checkpoint and "leyden_version" not in checkpoint


def from_lightning(checkpoint: Mapping[str, Any], accumulate_grad_batches: int = 1) -> dict[str, Any]:
    """Return a checkpoint of Lightning, 1.0 or later, in our layout; what is missing in it stays missing.

    Every key is kept but for ``loops`` and ``callbacks``, which are rewritten. A run goes on with the batch after the
    last one finished, or with the next epoch where that was the epoch's last. `accumulate_grad_batches` tells whether a
    batch that was saved in its `on_train_batch_end` had stepped.

    Example:
        >>> old = {"pytorch-lightning_version": "1.4.9", "epoch": 3, "global_step": 60, "optimizer_states": []}
        >>> from_lightning(old)["loops"]["fit_loop"]["epoch"]
        3
    """
    converted = dict(checkpoint)
    converted["callbacks"] = _callbacks(checkpoint)
    if "optimizer_states" not in checkpoint or "global_step" not in checkpoint:
        converted.pop("loops", None)  # weights only: no run to go on with
        return converted
    converted["loops"] = {"fit_loop": _progress(checkpoint, accumulate_grad_batches)}
    converted["epoch"] = converted["loops"]["fit_loop"]["epoch"]
    converted.setdefault("lr_schedulers", [])
    converted["precision"] = next((checkpoint[name] for name in _SCALERS if checkpoint.get(name)), {})
    return converted


def warn_of_lightning(converted: Mapping[str, Any], path: str) -> None:
    """Say where a run goes on from a checkpoint of Lightning, and what of it is not exact."""
    progress = converted["loops"]["fit_loop"]
    place = f"epoch {progress['epoch']}" + (f", batch {progress['batches_done']}" if progress["epoch_started"] else "")
    rank_zero_warn(
        f"ckpt_path={path!r} was written by Lightning {converted[LIGHTNING_VERSION_KEY]}. Training goes on at {place}, "
        f"step {converted['global_step']}, with its weights, optimizers, schedulers and callbacks. The rest is not in "
        "such a file and begins anew: random numbers, the order of the data, running metrics, gradients of an "
        "unfinished accumulation window, and what was still to be done for the last batch, such as its validation."
    )


def _progress(checkpoint: Mapping[str, Any], accumulate_grad_batches: int) -> dict[str, Any]:
    """Return the counters of the fit in our terms."""
    loop = _mapping(_mapping(checkpoint.get("loops")).get("fit_loop"))
    batches, epochs = _mapping(loop.get("epoch_loop.batch_progress")), _mapping(loop.get("epoch_progress"))
    steps = int(checkpoint["global_step"])
    logged = _mapping(loop.get("epoch_loop.state_dict")).get("_batches_that_stepped")
    state: dict[str, Any] = {
        "epoch": int(checkpoint.get("epoch", 0)), "batches_done": 0, "batches_seen": steps,
        "batches_that_stepped": steps if logged is None else int(logged), "validated_at": -1, "is_last_batch": False,
        "epoch_started": False, "epoch_skipped": False, "window_ends": False, "stepped": False, "pending": "",
        "place": None,
    }  # fmt: skip
    current, total = _mapping(batches.get("current")), _mapping(batches.get("total"))
    finished = int(current.get("processed", current.get("completed", 0)))
    if total:
        state["batches_seen"] = int(total.get("processed", total.get("completed", steps)))
    if "is_last_batch" in batches and epochs:  # without it, as up to 1.4, `epoch` is the one to begin
        of_epochs = _mapping(epochs.get("current"))
        done = int(of_epochs.get("completed", state["epoch"]))
        in_epoch = int(of_epochs.get("ready", done)) > done
        state["epoch"] = done + int(in_epoch and bool(batches["is_last_batch"]))
        if in_epoch and finished and not batches["is_last_batch"]:
            state.update(epoch_started=True, batches_done=finished)
            state["place"] = {"train": {"batches": finished, "place": None}}
    was_in_hook = finished > int(current.get("completed", finished))
    window_ended = bool(batches.get("is_last_batch")) or finished % accumulate_grad_batches == 0
    if logged is not None and was_in_hook and window_ended:
        state["batches_that_stepped"] += 1
    state["loaded_at_epoch"] = state["epoch"]
    return state


def _callbacks(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callbacks' states under our keys: class names, with what sets callbacks of a class apart."""
    found = dict(_mapping(checkpoint.get("callbacks")))
    if "checkpoint_callback_best_model_path" in checkpoint:  # where it was before callbacks had states of their own
        kept = ("best_model_path", "best_model_score")
        best = {name: checkpoint.get(f"checkpoint_callback_{name}") for name in kept}
        found.setdefault("ModelCheckpoint", best)
    states: dict[str, Any] = {}
    for given, state in found.items():
        key = _key(given)
        states[key if key not in states else str(given)] = _state(key, state)
    return states


def _key(given: object) -> str:
    """Return our key for one that is a class, a class's name or path, or that with arguments in braces."""
    if isinstance(given, type):
        return given.__qualname__
    name, brace, arguments = str(given).partition("{")
    while "." in name and name[:1].islower() and "<locals>" not in name:  # the names of packages and modules
        name = name.partition(".")[2]
    return name + brace + arguments


def _state(key: str, state: Any) -> Any:
    """Return a state with what our callback of that class writes differently."""
    if key.startswith("EarlyStopping") and isinstance(state, Mapping) and isinstance(state.get("stopping_reason"), int):
        number = state["stopping_reason"]
        known = 0 <= number < len(_STOPPING_REASONS)
        return {**state, "stopping_reason": _STOPPING_REASONS[number if known else 0]}
    return state


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
