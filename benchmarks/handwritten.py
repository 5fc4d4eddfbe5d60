"""The yardstick: the model, its ready-made batches, and the loops one would write by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case

__all__ = ["LoggingNet", "Net", "ReadyBatches", "evaluate", "loop_for", "make_batches", "net_for", "train"]

_IN, _OUT, _BATCH = 32, 2, 8
# So small that 100,000 steps on the sum of the outputs stay far from infinity; its value changes no timing.
_LEARNING_RATE = 1e-4


class Net(nn.Module):
    """The steps alone: mixed with a framework's module it is trained by that framework, alone by the loops below."""

    def __init__(self, logged: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(_IN, _OUT)
        self.names = tuple(f"metric_{i}" for i in range(logged))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        outputs: Tensor = self.layer(batch)
        return outputs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=_LEARNING_RATE)


class LoggingNet(Net):
    """Logs each of its names in every training step, the way a user would."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        for name in self.names:
            self.log(name, loss, on_step=True, on_epoch=True)  # type: ignore[operator]  # the framework's
        return loss


def net_for(case: Case, base: type[Any] | None = None) -> Any:
    """A fresh model for the case; ``base`` is the framework's module class to mix it with."""
    steps = LoggingNet if case.logged else Net
    made = steps if base is None else type("MeasuredNet", (steps, base), {})
    return made(case.logged)


def make_batches(number: int) -> list[Tensor]:
    """Batches that cost nothing to get: ``number`` tensors of shape ``(8, 32)``."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(_BATCH, _IN, generator=generator) for _ in range(number)]


class ReadyBatches:
    """``number`` ready-made batches as a loader of a known length: a plain list would be a list of loaders."""

    def __init__(self, number: int) -> None:
        self._batches = make_batches(number)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._batches)


def train(module: Net, optimizer: torch.optim.Optimizer, batches: Iterable[Tensor]) -> None:
    """The loop of every tutorial."""
    for batch_idx, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = module.training_step(batch, batch_idx)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def evaluate(step: Callable[[Tensor, int], Tensor], batches: Iterable[Tensor]) -> list[Tensor]:
    """Validation and prediction by hand: the outputs are kept, as one would to average or return them."""
    outputs = []
    with torch.inference_mode():
        for batch_idx, batch in enumerate(batches):
            outputs.append(step(batch, batch_idx))
    return outputs


def loop_for(case: Case) -> Callable[[Iterable[Tensor]], object]:
    """The hand-written counterpart of a case, ready to be given batches. It neither logs nor calls anyone back."""
    module = Net()
    if case.stage == "fit":
        optimizer = module.configure_optimizers()

        def by_hand(batches: Iterable[Tensor]) -> None:
            with torch.enable_grad():
                train(module, optimizer, batches)

        return by_hand
    module.eval()
    step = module.validation_step if case.stage == "validate" else module.predict_step
    return lambda batches: evaluate(step, batches)
