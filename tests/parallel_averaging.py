"""Averages of weights in several processes, for `test_parallel_averaging`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.parallel_runs import ACCELERATOR
from tests.parallel_state import Drawing, SaveAt, train
from torch import nn
from torch.distributed.tensor import DTensor

from leyden import Callback, Trainer
from leyden.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging

__all__ = ["CUTS", "KINDS", "averaged", "everything"]

CUTS = (9, 12)
"""Batches done when the run is saved: within the second of three epochs, and at its end."""

KINDS: dict[str, Callable[[], Callback]] = {
    "EMA": lambda: EMAWeightAveraging(decay=0.7, update_starting_at_step=2),
    "mean": lambda: WeightAveraging(use_buffers=False),
    "SWA": lambda: StochasticWeightAveraging(0.02, 1, annealing_epochs=1),
}


def averaged(strategy: str, folder: str) -> dict[str, dict[str, Any]]:
    """Train with each kind of average without a cut, saving behind some batches."""
    return {kind: _trained(strategy, kind, SaveAt(str(Path(folder, strategy, kind)), *CUTS)) for kind in KINDS}


def gone_on_with(strategy: str, folder: str, saved_by: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Go on from what `averaged` saved, by that strategy or another."""
    return {
        (kind, cut): _trained(strategy, kind, ckpt_path=str(Path(folder, saved_by, kind, f"{cut}.ckpt")))
        for kind in KINDS
        for cut in CUTS
    }


def _trained(strategy: str, kind: str, *others: Callback, ckpt_path: str | None = None) -> dict[str, Any]:
    end = train(strategy, {"callbacks": [KINDS[kind](), *others]}, ckpt_path, draws=False)
    return {name: end[name] for name in ("weights", "metrics", "steps")}


class Normalised(Drawing):
    """With BatchNorm, and no dropout; keeps its inputs."""

    def __init__(self) -> None:
        super().__init__(draws=True)
        self.net[3] = nn.Identity()
        self.draws = False
        self.inputs: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.inputs.append(batch.clone())
        return super().training_step(batch, batch_idx)


def statistics(strategy: str) -> tuple[Any, Any]:
    """Train with SWA; return the BatchNorm layer's statistics, and those by hand over the batches of all processes."""
    module = Normalised()
    trainer = Trainer(
        strategy=strategy, accelerator=ACCELERATOR, max_epochs=2, logger=False, discover_callbacks=False,
        callbacks=[StochasticWeightAveraging(0.02, 1, annealing_epochs=1)], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module)
    found = tuple(value.clone() for name, value in module.net[1].named_buffers() if name.startswith("running"))
    weights = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in module.net[0].state_dict().items()
    }
    own = torch.stack(module.inputs[-6:])  # of the pass, which is one epoch
    batches = trainer.strategy.all_gather(own).flatten(0, 1) if trainer.world_size > 1 else own
    hidden = [torch.nn.functional.linear(batch, weights["weight"], weights["bias"]) for batch in batches]
    expected = [torch.stack([h.mean(0) for h in hidden]).mean(0), torch.stack([h.var(0) for h in hidden]).mean(0)]
    return found, expected


def everything(folder: str) -> dict[str, Any]:
    """All there is, in one pair of processes."""
    whole = {strategy: averaged(strategy, folder) for strategy in ("ddp", "fsdp")}
    pairs = [("ddp", "ddp"), ("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")]
    return {
        "whole": whole,
        "resumed": {pair: gone_on_with(pair[0], folder, pair[1]) for pair in pairs},
        "statistics": [statistics(strategy) for strategy in ("ddp", "fsdp")],
    }
