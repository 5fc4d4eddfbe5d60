"""Which file a `ckpt_path` means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden.state import remote
from leyden.state.checkpoint import check_checkpoint
from leyden.state.placing import is_sharded
from leyden.state.storage import load
from leyden.state.temporaries import remove_abandoned, was_kept_aside

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["read_checkpoint", "resolve_checkpoint"]


def read_checkpoint(
    trainer: Trainer, ckpt_path: str | os.PathLike[str] | None, weights_only: bool = True
) -> tuple[str, dict[str, Any]] | None:
    """Return the file that `ckpt_path` means, and what is in it; None where there is nothing to go on from.

    `ckpt_path` is a path, "best", "last", "hpc" or "auto": the newest whole file that this entry point can use, if
    there is one. ``weights_only=False`` lets files run code while they are read.

    Of several processes the first one decides, and the others read the same.

    Raises:
        MisconfigurationException: there is no such checkpoint, or none that the entry point can use.
    """
    if ckpt_path is None or trainer.world_size == 1:
        return _read_named(trainer, ckpt_path, weights_only)
    strategy = trainer.strategy
    found: tuple[str, dict[str, Any]] | None = None
    error: Exception | None = None
    if strategy.is_global_zero:
        try:
            found = _read_named(trainer, ckpt_path, weights_only)
        except Exception as problem:
            error = problem
    told = None if error is None else f"{type(error).__name__}: {error}"
    path, told = strategy.broadcast((None if found is None else found[0], told))
    if error is not None:
        raise error
    if told is not None:
        raise MisconfigurationException(f"the first process cannot go on from ckpt_path={ckpt_path!r}: {told}")
    if path is None:
        return None
    if found is None:
        found = path, _read(trainer, path, weights_only)
    return found


def _read_named(
    trainer: Trainer, ckpt_path: str | os.PathLike[str] | None, weights_only: bool
) -> tuple[str, dict[str, Any]] | None:
    if ckpt_path == "auto":
        return _newest_whole(trainer, weights_only)
    path = resolve_checkpoint(trainer, ckpt_path)
    return None if path is None else (path, _read(trainer, path, weights_only))


def resolve_checkpoint(trainer: Trainer, ckpt_path: str | os.PathLike[str] | None) -> str | None:
    """Return the file for a path, "best", "last" or "hpc"; it need not be there.

    Raises:
        MisconfigurationException: there is no such checkpoint; the message says where it was looked for.
    """
    if ckpt_path is None:
        return None
    if not isinstance(ckpt_path, str | os.PathLike):
        raise MisconfigurationException(
            f"ckpt_path={ckpt_path!r}: expected a path, 'best', 'last', 'auto', 'hpc' or None."
        )
    name = os.fspath(ckpt_path)
    by_name = {"best": _best, "last": _last, "hpc": _hpc}
    return by_name[name](trainer) if name in by_name else name


def _read(trainer: Trainer, path: str, weights_only: bool) -> dict[str, Any]:
    by_share = trainer.strategy.state_dict_type == "sharded" and trainer.state.fn == "fit"
    unread = "optimizer_states" if by_share else ""
    checkpoint: dict[str, Any] = load(path, map_location="cpu", weights_only=weights_only, unread=unread)
    check_checkpoint(checkpoint, path, trainer.lightning_module, str(trainer.state.fn))
    return checkpoint


def _best(trainer: Trainer) -> str:
    if not trainer.checkpoint_callbacks:
        raise _no_callback("best")
    for callback in trainer.checkpoint_callbacks:
        path = getattr(callback, "best_model_path", "")
        if path:
            return str(path)
    why, how = "no checkpoint has been saved yet", "first"
    if trainer.fast_dev_run:
        why, how = "under fast_dev_run no checkpoint is saved", "without it first"
    raise MisconfigurationException(f"ckpt_path='best': {why}, so there is no best one. Run fit {how}, or give a path.")


def _last(trainer: Trainer) -> str:
    if not trainer.checkpoint_callbacks:
        raise _no_callback("last")
    known = [str(getattr(callback, "last_model_path", "")) for callback in trainer.checkpoint_callbacks]
    files = [path for path in known if path] or [
        path for path in _newest_first(trainer) if os.path.basename(path).startswith("last")
    ]
    if not files:
        raise MisconfigurationException(
            f"ckpt_path='last': no last checkpoint was found in {_places(trainer)}. Use "
            "ModelCheckpoint(save_last=True), or ckpt_path='auto' to begin afresh where there is none."
        )
    return files[0]


def _hpc(trainer: Trainer) -> str:
    """The checkpoint that a cluster's requeued job goes on from: ``hpc_ckpt_N.ckpt`` with the highest number."""
    root = Path(trainer.default_root_dir)
    numbered = [(int(path.stem[9:]), path) for path in root.glob("hpc_ckpt_*.ckpt") if path.stem[9:].isdigit()]
    if not numbered:
        raise MisconfigurationException(f"ckpt_path='hpc': there is no hpc_ckpt_N.ckpt in {root}.")
    return str(max(numbered)[1])


def _newest_whole(trainer: Trainer, weights_only: bool) -> tuple[str, dict[str, Any]] | None:
    for path in _newest_first(trainer):
        try:
            checkpoint = _read(trainer, path, weights_only)
        except (MisconfigurationException, OSError) as error:  # it may also be gone by now, or not ours to read
            rank_zero_warn(f"ckpt_path='auto' passes over {path}: {error}")
            continue
        rank_zero_info(f"ckpt_path='auto': going on from {path}.")
        return path, checkpoint
    rank_zero_info(f"ckpt_path='auto': no checkpoint in {_places(trainer)}; training begins afresh.")
    return None


def _newest_first(trainer: Trainer) -> list[str]:
    dated = {path: at for folder in _folders(trainer) for path, at in _dated(folder)}
    return sorted(dated, key=lambda path: (dated[path], path), reverse=True)


def _dated(folder: str) -> Iterator[tuple[str, float]]:
    """Yield the checkpoints in and below a folder with the time at which they were written, in seconds."""
    local = remote.local_path(folder)
    if local is None:
        yield from remote.checkpoints(folder)
        return
    found = list(Path(local).rglob("*.ckpt"))
    if aside := {path.parent.parent for path in found if was_kept_aside(path)}:
        for place in aside:
            remove_abandoned(place)  # which puts back what a killed run had kept aside
        found = list(Path(local).rglob("*.ckpt"))
    for path in found:
        if path.is_dir() and not is_sharded(path):
            continue
        with suppress(FileNotFoundError):  # rotated away meanwhile, or a link that leads nowhere
            yield str(path), path.stat().st_mtime_ns / 1e9


def _folders(trainer: Trainer) -> list[str]:
    given: list[Any] = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    return [os.fspath(folder) for folder in given if folder] or [os.fspath(trainer.default_root_dir)]


def _places(trainer: Trainer) -> str:
    return " or ".join(_folders(trainer))


def _no_callback(name: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"ckpt_path={name!r} asks a checkpoint callback, but this Trainer has none: add ModelCheckpoint (pip install "
        "leyden-callbacks-checkpoint), or give a path."
    )
