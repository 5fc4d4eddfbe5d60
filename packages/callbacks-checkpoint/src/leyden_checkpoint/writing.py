"""Carrying out a save: write what is wanted, remember it, and only then remove what it makes superfluous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden.state import storage
from leyden.state.shares import Shares
from leyden.state.together import collect
from leyden_checkpoint import files
from leyden_checkpoint.background import RESERVED, Background
from leyden_checkpoint.saving import Turn
from leyden_checkpoint.snapshot import snapshot
from leyden_checkpoint.standing import adopt

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_checkpoint.model_checkpoint import ModelCheckpoint
__all__ = ["InFlight", "Settled", "carry_out", "land", "make_up", "progress_of", "settle", "unsettle"]


@dataclass(slots=True)
class Outcome:
    """How far the writing got: the files that are whole now, and what kept it from going on."""

    files: list[str] = field(default_factory=list)
    error: Exception | None = None


@dataclass(slots=True)
class Settled:
    """A save that is decided: the callback looks as with it, and the files are yet to be written."""

    turn: Turn
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(slots=True)
class InFlight:
    """A save that was begun: what the callback looked like before, and what it looks like with it."""

    trainer: Trainer
    turn: Turn
    before: dict[str, Any]
    after: dict[str, Any]
    writing: Background[Outcome]


def settle(checkpoint: ModelCheckpoint, trainer: Trainer, turn: Turn, *, alone: bool = False) -> Settled | None:
    """Let the callback look as with what was decided, before any file is written: each file holds the states of all.

    Until its own files are there, `unwritten` says so in the files of others: who goes on from one of them makes up for
    it. A save after an exception (`alone`) is beside the rhythm, and no reason to leave out one that is due.
    """
    if not turn.files:
        adopt(checkpoint, turn.standing)
        _announce(checkpoint, turn)
        return None
    after = {**turn.standing, "saved_progress": progress_of(trainer)}
    if not alone:
        after["saved_at"] = (trainer.current_epoch, trainer.global_step)
        after["unwritten"] = _files_of(turn)
    before = {name: getattr(checkpoint, name) for name in (*after, "last_model_path")}
    turn.superseded += checkpoint.left_over
    adopt(checkpoint, after)
    RESERVED.update(turn.files)
    return Settled(turn, before, after)


def _files_of(turn: Turn) -> dict[str, Any]:
    return {"path": turn.path, "last": turn.last, "links": turn.links}


def unsettle(checkpoint: ModelCheckpoint, settled: Settled) -> None:
    """Forget a save that did not come to be written."""
    RESERVED.difference_update(settled.turn.files)
    adopt(checkpoint, settled.before)


def carry_out(
    checkpoint: ModelCheckpoint, trainer: Trainer, settled: Settled, *, alone: bool = False
) -> InFlight | None:
    """Write what was settled, in every process; return the save that is in flight where the callback is asynchronous.

    Where writing fails the attributes are set back, so that nothing is remembered that was not written, and nothing is
    removed. `alone` is for a process that was torn out of its run: it waits for no other, and for no thread to come.
    """
    turn = settled.turn
    in_background = checkpoint.asynchronous and not alone
    superseded = checkpoint.written.intersection(turn.superseded).difference(turn.files)
    try:
        content = _content(checkpoint, trainer, turn, copied=in_background)
        write = Outcome if content is None else partial(_write, content, turn, superseded)
        if in_background:
            return InFlight(trainer, turn, settled.before, settled.after, Background(write))
        outcome = write()
    except BaseException:
        unsettle(checkpoint, settled)
        raise
    _conclude(checkpoint, trainer, turn, settled.before, settled.after, outcome, alone=alone)
    return None


def make_up(checkpoint: ModelCheckpoint, trainer: Trainer) -> None:
    """Write the files of a save of this very moment, where the run goes on from one that was written before them."""
    unwritten, checkpoint.unwritten = checkpoint.unwritten, None
    if not unwritten or checkpoint.saved_at != (trainer.current_epoch, trainer.global_step):
        return
    turn = trainer.strategy.broadcast(_missing(checkpoint, trainer, unwritten))
    if turn.files:
        content = _content(checkpoint, trainer, turn, copied=False)
        outcome = Outcome() if content is None else _write(content, turn, set())
        _conclude(checkpoint, trainer, turn, {}, {}, outcome, alone=False)


def _missing(checkpoint: ModelCheckpoint, trainer: Trainer, unwritten: Mapping[str, Any]) -> Turn:
    """What of `unwritten` is not there: under the name of the newest there may be an older one."""
    turn = Turn()
    path, last = (_here(checkpoint, unwritten[name]) for name in ("path", "last"))
    if path and not files.exists(path):
        turn.path, turn.links = path, unwritten["links"]
    if last and not files.is_newer(last, trainer.ckpt_path or ""):
        turn.last = last
    return turn


def _here(checkpoint: ModelCheckpoint, path: str) -> str:
    """The path as it is, or in the callback's folder of today where that was moved."""
    folder = checkpoint.dirpath or ""
    return path if not path or path.startswith(files.join(folder, "")) else files.join(folder, files.name_in(path))


def progress_of(trainer: Trainer) -> tuple[int, ...]:
    """How far a run has come: as long as it is the same, another checkpoint would save no work."""
    loop = trainer.fit_loop
    return trainer.current_epoch, trainer.global_step, loop.batches_seen, loop.val_loop.batches_seen


def land(checkpoint: ModelCheckpoint, flight: InFlight, *, alone: bool = False) -> None:
    """Have what came of a save in flight, its error above all, once it is done."""
    turn = flight.turn
    outcome = flight.writing.result()
    if outcome.error is not None:
        outcome.error.add_note(f"This came up in the background, while {turn.files[0]} was being saved.")
    _conclude(checkpoint, flight.trainer, turn, flight.before, flight.after, outcome, alone=alone)


def _content(
    checkpoint: ModelCheckpoint, trainer: Trainer, turn: Turn, *, copied: bool
) -> dict[str, Any] | Shares | None:
    """What the files are to hold; None where another process writes them. If one process fails here, all do."""
    unwritten = checkpoint.unwritten
    # Who reads the first file has it, and may not have the second.
    checkpoint.unwritten = {"path": "", "last": turn.last, "links": False} if turn.path and turn.last else None
    try:
        content = collect(trainer, checkpoint.save_weights_only)
    finally:
        checkpoint.unwritten = unwritten
    return snapshot(content) if copied and content is not None else content


def _write(content: Any, turn: Turn, superseded: set[str]) -> Outcome:
    """Write the files, then remove what they supersede. On a thread it touches nothing that training does.

    Of a checkpoint that all processes write the first one does the rest.
    """
    first = not isinstance(content, Shares) or content.plain is not None
    outcome = Outcome()
    try:
        if turn.path:
            storage.save(content, turn.path)
            outcome.files.append(turn.path)
        if turn.last:
            if not (turn.links and first and _linked(turn.path, turn.last)):
                storage.save(content, turn.last, turn.path or None)
            outcome.files.append(turn.last)
        for path in sorted(superseded) if first else ():
            files.remove(path)
    except Exception as error:
        outcome.error = error
    return outcome


def _linked(target: str, path: str) -> bool:
    """Whether `path` is now a link to `target`; where there are no links it becomes a file."""
    try:
        storage.link(target, path)
    except OSError:
        return False
    return True


def _conclude(
    checkpoint: ModelCheckpoint,
    trainer: Trainer,
    turn: Turn,
    before: dict[str, Any],
    after: dict[str, Any],
    outcome: Outcome,
    *,
    alone: bool,
) -> None:
    """Remember what was written, in every process; set back what was not, and raise or tell what went wrong."""
    outcome = outcome if alone else _shared(trainer, outcome)
    RESERVED.difference_update(turn.files)
    if checkpoint.unwritten == _files_of(turn):
        checkpoint.unwritten = None
    checkpoint.written.update(outcome.files)
    superseded = set(turn.superseded).difference(turn.files)
    if outcome.error is None:
        checkpoint.written -= superseded
        checkpoint.left_over = set()
    elif turn.files[0] in outcome.files:
        checkpoint.left_over = superseded
    if turn.path and turn.path not in outcome.files:
        # What changed since the save began, as a score that was no better does, is not set back.
        adopt(checkpoint, {name: before[name] for name in after if getattr(checkpoint, name) is after[name]})
    elif turn.last and turn.last not in outcome.files:
        names = ["last_model_path"] if turn.path else list(after)
        adopt(checkpoint, {name: before[name] for name in names if getattr(checkpoint, name) is after[name]})
    if outcome.files and trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.after_save_checkpoint(checkpoint)
    if outcome.error is None:
        _announce(checkpoint, turn)
    elif checkpoint.on_save_error == "raise" or not isinstance(outcome.error, OSError):
        raise outcome.error  # what cannot be pickled is a mistake, and no matter of the disk
    else:
        _warn(checkpoint, turn, outcome)


def _shared(trainer: Trainer, outcome: Outcome) -> Outcome:
    """The first process's outcome, in every process; errors travel as text, since not every one can be pickled."""
    if trainer.world_size == 1:
        return outcome
    told = f"{type(outcome.error).__name__}: {outcome.error}" if outcome.error is not None else ""
    written, told, of_disk = trainer.strategy.broadcast((outcome.files, told, isinstance(outcome.error, OSError)))
    if trainer.is_global_zero or not told:
        return Outcome(written, outcome.error)
    return Outcome(written, (OSError if of_disk else RuntimeError)(f"The first process could not save: {told}"))


def _warn(checkpoint: ModelCheckpoint, turn: Turn, outcome: Outcome) -> None:
    missing = [path for path in turn.files if path not in outcome.files]
    what = f"could not save {' and '.join(missing)}" if missing else "could not remove what is superseded"
    rank_zero_warn(
        f"{type(checkpoint).__name__} {what}; training goes on (on_save_error='warn'), and the checkpoints before it "
        f"stay. {type(outcome.error).__name__}: {outcome.error}"
    )


def _announce(checkpoint: ModelCheckpoint, turn: Turn) -> None:
    if not checkpoint.verbose:
        return
    score = turn.standing.get("current_score")
    told = "" if score is None else f" with {checkpoint.monitor}={float(score):.5f}"
    if turn.path:
        rank_zero_info(f"Saved {turn.path}{told}")
    elif score is not None:
        rank_zero_info(f"A checkpoint{told} is not among the best {checkpoint.save_top_k}: not saved")
    if turn.last:
        rank_zero_info(f"{'Linked' if turn.links else 'Saved'} the newest as {turn.last}")
