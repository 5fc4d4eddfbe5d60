"""The records of a run by stage: made once per name and hook, kept over the epochs, put into checkpoints."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden.logging.buffer import widest_on
from leyden.logging.metric_record import MetricRecord, attribute_of
from leyden.logging.records import Key, Record, Traits
from leyden.logging.reductions import ExtremeRecord, KeptRecord, MeanRecord, SumRecord
from leyden.logging.rules import Options, check_name, levels_for, raise_changed_options, reduction_of
from leyden.logging.values import is_metric
from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["Registry"]

_STAGES = ("train", "sanity", "validate", "test")


class Registry:
    """All records of a trainer. Making one is the slow path of ``self.log``, taken once per name and hook.

    Records outlive an epoch (only their values go), so that an epoch that logs what the one before did makes none.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._stages: dict[str, dict[Key, Record]] = {stage: {} for stage in _STAGES}
        self._warned_of: set[str] = set()
        self.made = 0  # how many records were made, so that who keeps something of them sees when to look again

    def of(self, stage: str) -> dict[Key, Record]:
        """Return the records of `stage`; the dict stays the same object for as long as the registry lives."""
        return self._stages[stage]

    def reset(self, stage: str, *, but_hook: str = "") -> None:
        """Forget the values of `stage`, but for those logged in `but_hook`."""
        for key, record in self._stages[stage].items():
            if key[0] != but_hook:
                record.reset()

    def forget(self) -> None:
        """Forget all records: another entry point begins, perhaps with another module."""
        for records in self._stages.values():
            for record in records.values():
                record.reset()
            records.clear()
        self.made += 1

    def record(self, records: dict[Key, Record], key: Key, options: Options, value: Any) -> Record:
        """Return the record for a name in a hook, made now unless it is there; raises what is wrong with the call."""
        hook, name, _ = key
        check_name(name, options.add_dataloader_idx)
        on_step, on_epoch, in_step = levels_for(hook, name, options.on_step, options.on_epoch)
        if not in_step:
            key = (hook, name, None)  # what is logged once per epoch belongs to all dataloaders
        found = records.get(key)
        if found is not None and found.options == options:
            return found
        if found is not None and found.options is not None and found.count:
            raise_changed_options(hook, name, found.options, options)
        suffix = f"/dataloader_idx_{key[2]}" if key[2] is not None and options.add_dataloader_idx else ""
        elsewhere = options.rank_zero_only and not self._trainer.is_global_zero
        traits = Traits(
            name,
            suffix,
            on_step=on_step and not elsewhere,
            on_epoch=on_epoch and not elsewhere,
            prog_bar=bool(options.prog_bar),
            to_logger=options.logger is None or bool(options.logger),
        )
        if on_epoch and self._trainer.world_size > 1 and is_metric(value):
            _check_processes(name, options, value)
        record = self._make(records, key, traits, options, value)
        record.options = options
        record.weighted = in_step and record.kind in ("mean", "kept")
        record.group = options.sync_dist_group
        if found is not None and found.options is None:
            self._adopt(found, record)
        record.shares = self._shares(record, options)
        records[key] = record
        self.made += 1
        return record

    def take_part(self, stage: str, key: Key, described: dict[str, Any], group: Any) -> None:
        """Make the record that other processes have, and this one, which had no batch, has not; it has no values."""
        record = self._rebuilt(key, described)
        if record is None:
            raise MisconfigurationException(
                f"The metric logged as {key[1]!r} in `{key[0]}` is no attribute of the module, so that a process "
                "without a batch cannot take part in reducing it. Make it one: self.name = ... in __init__."
            )
        record.shares, record.group = True, group
        self._stages[stage][key] = record
        self.made += 1

    def can_reduce(self, record: Record) -> bool:
        """Whether the epoch's value of `record` can be had: the user's function is known once it was passed to log."""
        known = not isinstance(record, KeptRecord) or record.reducible
        if not known:
            self._warn_once(
                f"{record.key[1]!r} has values from a checkpoint and was not logged since, so that the function that "
                "reduces them is not known: it has no value for this epoch. A torchmetrics Metric has no such gap."
            )
        return known

    def _make(self, records: dict[Key, Record], key: Key, traits: Traits, options: Options, value: Any) -> Record:
        if options.logger and not self._trainer.loggers:
            self._warn_once(f"self.log({key[1]!r}, ..., logger=True) was called, but the Trainer has no logger.")
        dtype = _dtype_for(value)
        if is_metric(value):
            self._check_one_dataloader(records, key, value)
            attribute = options.metric_attribute or attribute_of(value, self._trainer.model)
            return MetricRecord(key, traits, dtype, metric=value, attribute=attribute)
        reduction = reduction_of(key[1], options.reduce_fx)
        if not traits.on_epoch:
            return Record(key, traits, dtype)
        if options.enable_graph or reduction is None:
            own = None if reduction is not None else options.reduce_fx
            return KeptRecord(key, traits, dtype, reduction=reduction, function=own)
        if reduction == "mean":
            return MeanRecord(key, traits, dtype)
        if reduction == "sum":
            return SumRecord(key, traits, dtype)
        return ExtremeRecord(key, traits, dtype, largest=reduction == "max")

    def _check_one_dataloader(self, records: dict[Key, Record], key: Key, metric: object) -> None:
        for other in records.values():
            if isinstance(other, MetricRecord) and other.metric is metric and other.key[2] != key[2] and other.count:
                self._warn_once(
                    f"The same {type(metric).__name__} object is logged as {key[1]!r} for several dataloaders, so its "
                    "value mixes their data. Use one metric object per dataloader."
                )

    def _shares(self, record: Record, options: Options) -> bool:
        """Whether the values of all processes become one. A metric of torchmetrics always reduces, by itself."""
        if self._trainer.world_size == 1 or options.rank_zero_only:
            return False
        if record.kind == "metric":
            return True
        if record.traits.on_epoch and not options.sync_dist:
            self._warn_once(
                f"self.log({record.key[1]!r}, ...) is called in {self._trainer.world_size} processes without "
                "sync_dist=True: each has the value of its own share of the data, and process 0's is logged. Pass "
                "sync_dist=True for that of all."
            )
        return options.sync_dist

    def _adopt(self, restored: Record, record: Record) -> None:
        """Let `record`, which now knows how it is logged, go on from the values of a checkpoint."""
        if restored.kind == record.kind and restored.traits == record.traits:
            if not isinstance(record, MetricRecord):  # a metric's values are in the metric
                record.load_state_dict(restored.state_dict())
            record.count, record.latest, record.step = restored.count, restored.latest, restored.step
            record.of_all_latest = restored.of_all_latest
        else:
            self._warn_once(
                f"{record.key[1]!r} in `{record.key[0]}` is logged in another way than when the checkpoint was made; "
                "the checkpoint's values of this epoch are left out."
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned_of:
            self._warned_of.add(message)
            rank_zero_warn(message)

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> list[dict[str, Any]]:
        """Return what the records that hold values would need to go on."""
        states = []
        for stage, records in self._stages.items():
            for key, record in records.items():
                if record.count == 0:
                    continue
                if isinstance(record, MetricRecord) and record.attribute is None:
                    self._warn_once(
                        f"The metric logged as {key[1]!r} in `{key[0]}` is no attribute of the module, so that a "
                        "checkpoint made in mid-epoch can't hold its values. Make it one: self.name = ... in __init__."
                    )
                    continue
                states.append({"stage": stage, "key": list(key), **record.description(), "values": record.state_dict()})
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Rebuild the records of `states`. They learn their options when their name is logged again, if it is."""
        for state in states:
            hook, name, index = state["key"]
            record = self._rebuilt((hook, name, index), state)
            if record is not None:
                record.load_state_dict(state["values"])
                record.shares = record.shares and self._trainer.world_size > 1
                self._stages[state["stage"]][record.key] = record
                self.made += 1

    def _rebuilt(self, key: Key, state: dict[str, Any]) -> Record | None:
        traits, dtype, kind = Traits(**state["traits"]), getattr(torch, state["dtype"]), state["kind"]
        if kind == "metric":
            module = self._trainer.model
            path = state["attribute"]
            found = None if module is None else dict(module.named_modules()).get(path)
            if found is None:
                rank_zero_warn(f"The checkpoint holds values of the metric {path!r}, which the module does not have.")
                return None
            return MetricRecord(key, traits, dtype, metric=found, attribute=path)
        if kind == "kept":
            return KeptRecord(key, traits, dtype, reduction=state["reduction"], function=None)
        if kind == "extreme":
            return ExtremeRecord(key, traits, dtype, largest=state["largest"])
        return {"latest": Record, "mean": MeanRecord, "sum": SumRecord}[kind](key, traits, dtype)


def _check_processes(name: str, options: Options, metric: Any) -> None:
    """Refuse a metric that would wait, within torchmetrics, for processes that do not log it."""
    if not metric.sync_on_compute:
        return
    kind, group = type(metric).__name__, options.sync_dist_group
    alone = f"or make it {kind}(..., sync_on_compute=False), which computes of this process's data alone"
    if options.rank_zero_only:
        raise MisconfigurationException(
            f"self.log({name!r}, <{kind}>, rank_zero_only=True): process 0 would wait for the others, since a "
            f"metric of torchmetrics is computed of all processes' states. Leave rank_zero_only out, {alone}."
        )
    if group is not None and metric.process_group is not group:
        raise MisconfigurationException(
            f"self.log({name!r}, <{kind}>, sync_dist_group=...): torchmetrics reduces it over another group. "
            f"Make it {kind}(..., process_group=...) with the same one, {alone}."
        )


def _dtype_for(value: object) -> torch.dtype:
    """The dtype a value is reduced to: float32, or a wider one where that is the default, or is logged.

    Half precision is for weights: a mean of thousands of losses is not. Whole numbers get float64, which rounds none up
    to 2**53; float32 does from 2**24 on.
    """
    default = torch.promote_types(torch.get_default_dtype(), torch.float32)
    if not isinstance(value, Tensor):
        return torch.float64 if isinstance(value, Integral) and not isinstance(value, bool) else default
    if value.is_floating_point():
        return torch.promote_types(default, value.dtype)
    return widest_on(value.device)
