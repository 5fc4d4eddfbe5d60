"""Runs of every kind by each strategy, to be compared with those of one process that has the doubled batch.

Where a CUDA device is there, the same runs use it, in one process.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tests.parallel_runs import ACCELERATOR, PROCESSES, Adversaries, Net, Unfreezing, fit
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, fp16_compress_wrapper
from torch.distributed.fsdp import MixedPrecisionPolicy

from leyden.strategies import DDPStrategy, FSDPStrategy

__all__ = ["CASES", "Case", "alone", "outcomes"]


class Uneven(Net):
    """Sizes that two processes cannot halve, a buffer, a layer that is used twice, and a schedule."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        inner = nn.Linear(7, 7)
        self.net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 7), inner, nn.Tanh(), inner, nn.Linear(7, 3))
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self.net(batch) * self.scale).square().mean()
        self.log("loss", loss, sync_dist=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Fused(Uneven):
    """All that an optimizer does in one kernel."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05, fused=True)


class Adam(Uneven):
    """With moments in shards."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Frozen(Uneven):
    """The first layers are never trained."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net[:2].requires_grad_(False)


class Tied(Net):
    """Two layers with one weight."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.net[2].weight = self.net[0].weight


class Late(Net):
    """Made in configure_model."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        del self.net

    def configure_model(self) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


class Closures(Net):
    """LBFGS, which evaluates the step several times and looks at the loss."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=6, line_search_fn="strong_wolfe")


class OwnStep(Net):
    """Its optimizer_step calls the closure itself, and clears gradients in place."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        optimizer.step()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class Unused(Net):
    """A part is used in every other step only."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.head = nn.Linear(2, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        found = self.net(batch)
        return (self.head(found) if batch_idx % 2 else found).square().mean()  # type: ignore[no-any-return]


class Compiled(Net):
    """A layer that torch has compiled."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net[0].compile(backend="aot_eager")


class LeftToggled(Adversaries):
    """Toggles its optimizers, and leaves the last one toggled as an epoch ends."""

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.net(batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()


class Timed(Net):
    """Its step is one of the instance, put around that of the class."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        plain = self.training_step
        self.training_step = lambda batch, batch_idx: 2 * plain(batch, batch_idx)  # type: ignore[method-assign]


class Seeded(Net):
    """Begins with other weights in each process; those of process 0 count."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        torch.manual_seed(100 + int(os.environ.get("RANK", "0")))
        self.net = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 2))


class ChannelsLast(Net):
    """Images, and weights that lie in memory as images do where a channel is nearest."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        images = batch.view(-1, 1, 2, 2).to(memory_format=torch.channels_last)
        return self.net(images).square().mean()  # type: ignore[no-any-return]


class Validated(Net):
    """Is evaluated in the midst of accumulation windows, by the layers and as a whole."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).square().mean(), sync_dist=True)

    def val_dataloader(self) -> Any:
        return [torch.ones(2, 4)] * 2

    def on_validation_end(self) -> None:
        with torch.no_grad():
            self(torch.ones(2, 4))

    def forward(self, batch: Tensor) -> Tensor:
        return self.net(batch)  # type: ignore[no-any-return]


class Whole(Net):
    """Normalises by the statistics of the whole batch, where the layer is converted."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net.insert(1, nn.BatchNorm1d(8))


class Normed(Net):
    """Has a BatchNorm of fixed statistics: under a policy of half precision its weights are gathered in 32 bits."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net.insert(1, nn.BatchNorm1d(8))

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


class Case(NamedTuple):
    """A run, and by how much its weights may differ from those of one process."""

    kind: type[Net]
    strategy: str | Callable[[], Any]
    trainer: Mapping[str, Any] = MappingProxyType({})
    rtol: float = 1e-5
    atol: float = 1e-6


def _ddp(**options: Any) -> Callable[[], Any]:
    return lambda: DDPStrategy(**options)


def _fsdp(**options: Any) -> Callable[[], Any]:
    return lambda: FSDPStrategy(**options)


MIXED = (2e-2, 2e-3)
"""Halves of a batch are summed in another order, each in 8 bits of precision."""

HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

CASES = {
    "ddp": Case(Net, "auto" if PROCESSES > 1 else "ddp"),
    "ddp, accumulating": Case(Net, "ddp", {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05}),
    "fsdp": Case(Net, "fsdp"),
    "fsdp, accumulating": Case(Net, "fsdp", {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05}),
    "ddp, uneven": Case(Uneven, "ddp"),
    "ddp, Adam": Case(Adam, "ddp", {"accumulate_grad_batches": 2}),
    "ddp, fused": Case(Fused, "ddp"),
    "ddp, norm of an accumulated gradient": Case(
        Uneven, "ddp", {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05}
    ),
    "ddp, values": Case(Uneven, "ddp", {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "ddp, bf16-mixed": Case(Net, "ddp", {"precision": "bf16-mixed"}, *MIXED),
    "ddp, 16-mixed": Case(Net, "ddp", {"precision": "16-mixed"}, *MIXED),
    "ddp, bf16-true": Case(Net, "ddp", {"precision": "bf16-true", "max_epochs": 1}, rtol=0.1, atol=0.02),
    "ddp, 64-true": Case(Net, "ddp", {"precision": "64-true"}, rtol=1e-12, atol=1e-12),
    "ddp, frozen": Case(Frozen, "ddp"),
    "ddp, tied": Case(Tied, "ddp"),
    "ddp, late": Case(Late, "ddp"),
    "ddp, unfreezing": Case(Unfreezing, "ddp"),
    "ddp, closures": Case(Closures, "ddp", rtol=1e-3, atol=1e-4),
    "ddp, own step": Case(OwnStep, "ddp", {"accumulate_grad_batches": 2}),
    "ddp, bucket views": Case(Uneven, _ddp(gradient_as_bucket_view=True, bucket_cap_mb=1), {"gradient_clip_val": 0.05}),
    "ddp, bucket views, own step": Case(OwnStep, _ddp(gradient_as_bucket_view=True)),
    "ddp, static graph": Case(Uneven, _ddp(static_graph=True), {"accumulate_grad_batches": 4}),
    "ddp, a step of the instance": Case(Timed, "ddp"),
    "ddp, another seed": Case(Seeded, "ddp"),
    "ddp, manual": Case(Adversaries, "ddp"),
    "ddp, manual, left toggled": Case(LeftToggled, "ddp"),
    "ddp, hook": Case(Uneven, _ddp(ddp_comm_hook=allreduce_hook)),
    "ddp, hook in 16 bits": Case(
        Net, _ddp(ddp_comm_hook=allreduce_hook, ddp_comm_wrapper=fp16_compress_wrapper), {}, *MIXED
    ),
    "ddp, unused": Case(Unused, "ddp_find_unused_parameters_true"),
    "ddp, channels last": Case(ChannelsLast, "ddp"),
    "ddp, evaluated within a window": Case(Validated, "ddp", {"accumulate_grad_batches": 4, "val_check_interval": 3}),
    "ddp, compiled": Case(Compiled, "ddp", {"max_epochs": 1}),
    "fsdp, uneven": Case(Uneven, "fsdp"),
    "fsdp, Adam": Case(Adam, "fsdp", {"accumulate_grad_batches": 2}),
    "fsdp, fused": Case(Fused, "fsdp"),
    "fsdp, norm of an accumulated gradient": Case(
        Uneven, "fsdp", {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05}
    ),
    "fsdp, values": Case(Uneven, "fsdp", {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "fsdp, bf16-mixed": Case(Net, "fsdp", {"precision": "bf16-mixed"}, *MIXED),
    "fsdp, 16-mixed": Case(Net, "fsdp", {"precision": "16-mixed"}, *MIXED),
    "fsdp, bf16-true": Case(Net, "fsdp", {"precision": "bf16-true", "max_epochs": 1}, rtol=0.1, atol=0.02),
    "fsdp, 64-true": Case(Net, "fsdp", {"precision": "64-true"}, rtol=1e-12, atol=1e-12),
    "fsdp, a step of the instance": Case(Timed, "fsdp"),
    "fsdp, another seed": Case(Seeded, "fsdp"),
    "fsdp, gathered in 16 bits": Case(Normed, _fsdp(mp_policy=HALF, wrap={nn.Linear}), {}, *MIXED),
    "fsdp, frozen": Case(Frozen, "fsdp"),
    "fsdp, tied": Case(Tied, "fsdp"),
    "fsdp, late": Case(Late, "fsdp"),
    "fsdp, unfreezing": Case(Unfreezing, "fsdp"),
    "fsdp, own step": Case(OwnStep, "fsdp", {"accumulate_grad_batches": 2}),
    "fsdp, unused": Case(Unused, "fsdp"),
    "fsdp, layers": Case(Uneven, _fsdp(wrap={nn.Linear}), {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}),
    "fsdp, layers kept": Case(Uneven, _fsdp(auto_wrap_policy={nn.Linear}, reshard_after_forward=False)),
    "fsdp, layers by name": Case(Uneven, _fsdp(wrap=lambda name, one: name == "net.1", reshard_after_forward=True)),
    "fsdp, manual": Case(Adversaries, "fsdp"),
    "fsdp, manual, left toggled": Case(LeftToggled, "fsdp"),
    "fsdp, channels last": Case(ChannelsLast, "fsdp"),
    "fsdp, manual, 16-mixed": Case(Adversaries, "fsdp", {"precision": "16-mixed"}, *MIXED),
    "fsdp, evaluated within a window": Case(
        Validated, _fsdp(wrap={nn.Linear}), {"accumulate_grad_batches": 4, "val_check_interval": 3}
    ),
    "fsdp, compiled": Case(Compiled, "fsdp", {"max_epochs": 1}),
}

if ACCELERATOR == "cuda" and PROCESSES > 1:  # torch's SyncBatchNorm runs on nothing else
    CASES["ddp, statistics of the whole batch"] = Case(Whole, "ddp", {"sync_batchnorm": True})
    CASES["fsdp, statistics of the whole batch"] = Case(Whole, "fsdp", {"sync_batchnorm": True})


def outcomes(*names: str) -> dict[str, Any]:
    """Run cases of these names one after the other; return what each gave, or the traceback of its error."""
    found: dict[str, Any] = {}
    for name in names:
        case = CASES[name]
        by_itself = "WORLD_SIZE" not in os.environ
        strategy: Any = "auto" if by_itself else case.strategy if isinstance(case.strategy, str) else case.strategy()
        try:
            found[name] = fit(strategy, dict(case.trainer), case.kind)
        except BaseException as error:
            found[name] = "".join(traceback.format_exception(error))
    return found


def alone(*names: str) -> dict[str, Any]:
    """Return the outcomes in a process that knows of no others."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        os.environ.pop(name, None)
    return outcomes(*names)
