"""``python -m benchmarks.averaging``: what `EMAWeightAveraging` takes at each step, over the `_foreach` update itself.

The callback is called as the loop calls it after an optimizer step, by the plan of a real fit. In turn with it, and in
an order by chance, the update alone runs on as many copies of the same tensors, found and grouped beforehand:
``torch._foreach_lerp_`` on what is floating point, and torch's own formula on integer buffers. Beside it stands
`AveragedModel.update_parameters`, which finds and groups them each time. Process CPU time, one thread; the figure is
the median over neighbouring rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.report import machine_facts
from leyden import Callback, LightningModule, Trainer
from leyden_optim import EMAWeightAveraging

__all__ = ["LIMIT", "measure"]

logging.getLogger("leyden").setLevel(logging.WARNING)  # why a run ended is of no interest here

LIMIT = 1.15
"""The callback may take 15 % more than the update."""

_DECAY = 0.999


def _transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


def _convolutions() -> nn.Module:
    blocks = [(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(20)]
    return nn.Sequential(*[part for block in blocks for part in block])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": _transformer,
    "convolutions with BatchNorm": _convolutions,
    "perceptron": lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
}
"""The last is so small that what is printed is Python's share; it is held to no limit."""

_HELD = ("transformer", "convolutions with BatchNorm")


class _Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.optimizers().step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class _Measure(Callback):
    """Runs the three in turn once the average is there."""

    def __init__(self, rounds: int, updates: int) -> None:
        self.rounds, self.updates = rounds, updates
        self.times: dict[str, list[float]] = {"callback": [], "update": [], "AveragedModel": []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            return
        update: Callable[..., None] = get_ema_multi_avg_fn(_DECAY)  # type: ignore[no-untyped-call]
        model = AveragedModel(pl_module, multi_avg_fn=update, use_buffers=True)
        model.update_parameters(pl_module)
        calls: dict[str, Callable[[], None]] = {
            "callback": partial(self._step, trainer, batch, batch_idx),
            "update": _update_alone(pl_module, update),
            "AveragedModel": partial(model.update_parameters, pl_module),
        }
        for number in range(self.rounds + 2):
            for name in random.sample(list(calls), len(calls)):
                call, begun = calls[name], time.process_time()
                for _ in range(self.updates):
                    call()
                if number >= 2:
                    self.times[name].append((time.process_time() - begun) / self.updates)

    def _step(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        trainer.engine.steps += 1
        run = trainer.plan.on_train_batch_end
        assert run is not None
        run({}, batch, batch_idx)


def _update_alone(module: nn.Module, update: Callable[..., None]) -> Callable[[], None]:
    tensors = [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    counts = [tensor for tensor in tensors if not tensor.is_floating_point()]
    averaged, averaged_counts = [[tensor.clone() for tensor in group] for group in (floating, counts)]

    def alone() -> None:
        torch._foreach_lerp_(averaged, floating, 1 - _DECAY)
        if counts:
            update(averaged_counts, counts, None)

    return alone


def measure(name: str, rounds: int, updates: int) -> dict[str, float]:
    """Return medians in µs, and the ratios of neighbouring rounds."""
    watch = _Measure(rounds, updates)
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        callbacks=[EMAWeightAveraging(decay=_DECAY), watch],
        discover_callbacks=False,
        enable_checkpointing=False,
    )
    trainer.fit(_Module(MODELS[name]()), [torch.zeros(1)] * 2)
    medians = {f"{kind}_us": 1e6 * statistics.median(times) for kind, times in watch.times.items()}
    update = watch.times["update"]
    ratios = {
        kind: statistics.median(a / b for a, b in zip(watch.times[kind], update, strict=True))
        for kind in ("callback", "AveragedModel")
    }
    return {**medians, "ratio": ratios["callback"], "ratio_of_AveragedModel": ratios["AveragedModel"]}


def main() -> None:
    """Print a table, keep the figures, fail above the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.averaging", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--updates", type=int, default=20, help="updates in a round")
    parser.add_argument("--no-file", action="store_true", help="write no file under benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {name: measure(name, arguments.rounds, arguments.updates) for name in MODELS}
    print(f"{'':30}{'the update':>12}{'EMAWeightAveraging':>28}{'AveragedModel':>28}")
    for name, one in figures.items():
        held = ("reached" if one["ratio"] <= LIMIT else "MISSED") if name in _HELD else "no limit"
        print(
            f"{name:30}{one['update_us']:9,.0f} µs{one['callback_us']:15,.0f} µs × {one['ratio']:.3f} ({held})"
            f"{one['AveragedModel_us']:13,.0f} µs × {one['ratio_of_AveragedModel']:.3f}"
        )
    if not arguments.no_file:
        name = datetime.now(UTC).strftime("averaging-%Y-%m-%dT%H%M%SZ.json")
        content = {**machine_facts(), "limit": LIMIT, "figures": figures}
        (Path(__file__).parent / "results" / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if any(figures[name]["ratio"] > LIMIT for name in _HELD):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
