"""What several processes log, brought together: at moments that all of them come to, never because of a look."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden.hooks.contract import HOOKS
from leyden.logging.exchange import Share, exchange, gather, gather_bytes, header_of
from leyden.logging.metric_record import MetricRecord
from leyden.logging.records import Key, Record
from leyden.logging.reductions import KeptRecord

if TYPE_CHECKING:
    from leyden.logging.registry import Registry
    from leyden.trainer import Trainer

__all__ = ["BatchValues", "Sharing", "belongs_to_step"]

BatchValues = Mapping[int, Mapping[Key, float | Tensor]]
"""What batches logged for their steps, by the batch's index."""

_STAGES = {"train": "training", "sanity": "the sanity check", "validate": "validation", "test": "test"}


class Sharing:
    """The records of a stage whose values are those of all processes, in an order that the processes have in common.

    Every method is called by all processes, at the same place.

    Args:
        without: returns the dataloaders of which this process has read no batch in the running evaluation; nobody may
            lack a batch where it is None, as in training.
    """

    def __init__(
        self, trainer: Trainer, registry: Registry, stage: str, without: Callable[[], list[int]] | None = None
    ) -> None:
        self._trainer, self._registry, self._stage, self._without = trainer, registry, stage, without
        self._records = registry.of(stage)
        self._made = -1  # what of the registry is in the following two
        self._groups: dict[Any, list[Record]] = {}
        self._headers: dict[Any, list[float]] = {}

    def share(self, *, steps: bool = False, epoch: bool = False, epoch_hooks: bool = False) -> None:
        """Bring together the last values of steps, those of the epoch, or of the latter what hooks of its end logged.

        Raises:
            MisconfigurationException: the processes do not log the same; names what each logs.
        """
        for group in list(self._by_group()):
            while not self._share_in(group, steps, epoch, epoch_hooks):
                self._agree(group, self._by_group()[group])

    def _share_in(self, group: Any, steps: bool, epoch: bool, epoch_hooks: bool) -> bool:
        """Do so in a group of processes; return False where they have yet to agree on what they log."""
        records = self._by_group()[group]
        at_step = [one for one in records if steps and _is_of_steps(one)]
        of_epoch = [
            one for one in records if one.traits.on_epoch and (epoch or (epoch_hooks and not belongs_to_step(one.key)))
        ]
        shares = [one.latest_share() for one in at_step] + [one.epoch_share() for one in of_epoch]
        values = exchange(self._trainer.strategy, group, shares, self._headers[group])
        if values is None:
            return False
        for record, value in zip(at_step, values, strict=False):
            record.take_latest(value, self._trainer.global_step)
        for record, value in zip(of_epoch, values[len(at_step) :], strict=True):
            self._take_epoch(group, record, value)
        return True

    def share_batches(self, batches: Mapping[int | None, BatchValues]) -> dict[Key, list[float | None]]:
        """Return, by record, the values of all processes for each batch, None where no process has one.

        `batches` holds, by dataloader, what they logged for their steps; some processes may have fewer.
        """
        found: dict[Key, list[float | None]] = {}
        for group, records in self._by_group().items():
            at_step = [one for one in records if _is_of_steps(one)]
            if not at_step:
                continue
            own = [batches.get(one.key[2], {}) for one in at_step]
            counts = [Share("max", max(there, default=-1) + 1.0, 1.0, True) for there in own]
            most = exchange(self._trainer.strategy, group, counts, header_of("numbers of batches")) or []
            shares = [
                _share_of(record, there.get(at, {}).get(record.key))
                for record, there, count in zip(at_step, own, most, strict=True)
                for at in range(int(count or 0))
            ]
            values = iter(exchange(self._trainer.strategy, group, shares, header_of("batches")) or ())
            for record, count in zip(at_step, most, strict=True):
                found[record.key] = [next(values) for _ in range(int(count or 0))]
        return found

    @property
    def of_steps(self) -> list[Record]:
        """The records that share values of steps: the same in all processes once these have shared anything."""
        return [one for records in self._by_group().values() for one in records if _is_of_steps(one)]

    def _by_group(self) -> dict[Any, list[Record]]:
        """By process group; the group of all comes first, and is there though nothing may be logged in this process."""
        if self._made != self._registry.made:
            self._made, self._groups = self._registry.made, {None: []}
            for _, record in sorted(self._records.items(), key=_in_order):
                if record.shares:
                    self._groups.setdefault(record.group, []).append(record)
            self._headers = {group: header_of([*map(_layout, there)]) for group, there in self._groups.items()}
        return self._groups

    def _take_epoch(self, group: Any, record: Record, value: float | None) -> None:
        if value is None:
            record.take_epoch(None)
        elif isinstance(record, MetricRecord):
            record.check_number(value, self._trainer.world_size)
            if lengths := record.lengths_of_lists():
                of_all = gather(self._trainer.strategy, group, torch.tensor(lengths))
                record.check_lengths([each.tolist() for each in of_all])
            record.of_all = record.compute()  # torchmetrics reduces by itself, in all processes at once
        elif isinstance(record, KeptRecord) and record.reduction is None:
            self._take_own_function(group, record)
        else:
            record.take_epoch(value)

    def _take_own_function(self, group: Any, record: KeptRecord) -> None:
        """Give a function of the user's own the values of all processes, in the order of their ranks."""
        own = record.stacked().detach().to(torch.float64) if record.count else torch.zeros(0, dtype=torch.float64)
        column = torch.cat(gather(self._trainer.strategy, group, own)).to(record.dtype)
        value = float(record.compute_of(column)) if record.reducible else 0.0
        # A process that has no batch, or that goes on from a checkpoint, may not know the function.
        told = exchange(self._trainer.strategy, group, [Share("max", value, 1.0, record.reducible)], header_of(""))
        record.take_epoch(None if told is None else told[0])

    def _agree(self, group: Any, records: Sequence[Record]) -> None:
        """Learn what the others log: who had no batch takes part with nothing, all else is an error in all."""
        own = {
            "records": [_described(record) for record in records],
            "without": [] if self._without is None else self._without(),
        }
        said = [json.loads(one) for one in gather_bytes(self._trainer.strategy, group, json.dumps(own).encode())]
        described = [{_key_of(one): one for one in each["records"]} for each in said]
        everything = {key: one for each in reversed(described) for key, one in each.items()}
        wrong = []
        for rank, (each, there) in enumerate(zip(said, described, strict=True)):
            missing = [key for key in everything if key not in there]
            wrong += [
                (rank, key) for key in missing if (key[2] or 0) not in each["without"] or not belongs_to_step(key)
            ]
        layouts = {key: {str(each[key]["layout"]) for each in described if key in each} for key in everything}
        otherwise = [key for key in everything if len(layouts[key]) > 1]
        if wrong or otherwise:
            raise MisconfigurationException(self._difference(described, [key for _, key in wrong], otherwise))
        known = {record.key for record in records}
        for key, one in everything.items():
            if key not in known:
                self._registry.take_part(self._stage, key, one, group)

    def _difference(
        self, described: Sequence[Mapping[Key, Any]], missing: Sequence[Key], otherwise: Sequence[Key]
    ) -> str:
        lines = []
        for key in dict.fromkeys(missing):
            having = [rank for rank, there in enumerate(described) if key in there]
            lines.append(f"{key[1]!r} in `{key[0]}` by {_processes(having)} of {len(described)} only")
        lines += [f"{key[1]!r} in `{key[0]}` in another way by each (see the arguments)" for key in otherwise]
        return (
            f"In {_STAGES[self._stage]} the processes do not log the same values with sync_dist=True: "
            f"{'; '.join(lines)}. A value of all processes needs each of them: log it in every process, with the same "
            "arguments, or with sync_dist=False (or rank_zero_only=True)."
        )


def belongs_to_step(key: Key) -> bool:
    """Whether a record is of a hook that runs for each batch."""
    hook = HOOKS.get(key[0])
    return hook is not None and hook.log is not None and hook.log.step_allowed


def _in_order(item: tuple[Key, Record]) -> tuple[str, str, int]:
    hook, name, index = item[0]
    return hook, name, -1 if index is None else index


def _layout(record: Record) -> tuple[Any, ...]:
    """What must be the same in all processes for numbers of a record to be added up."""
    own_function = isinstance(record, KeptRecord) and record.reduction is None
    traits, is_metric = record.traits, record.kind == "metric"
    return (*record.key, traits.on_step, traits.on_epoch, record.op, is_metric, own_function)


def _described(record: Record) -> dict[str, Any]:
    return {"key": list(record.key), "layout": list(_layout(record)), **record.description()}


def _key_of(described: Mapping[str, Any]) -> Key:
    hook, name, index = described["key"]
    return hook, name, index


def _is_of_steps(record: Record) -> bool:
    return record.traits.on_step and record.kind != "metric"


def _share_of(record: Record, value: float | Tensor | None) -> Share:
    return Share(record.op, 0.0 if value is None else value, 1.0, value is not None)


def _processes(ranks: Sequence[int]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(map(str, ranks))}"
