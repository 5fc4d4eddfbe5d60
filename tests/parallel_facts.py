"""Fits of processes that differ in what must be alike; run by `tests.together.together`."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from leyden import MisconfigurationException, Trainer
from leyden.testing import BoringModule

__all__ = ["CASES", "differing"]

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False, "strategy": "ddp",
    "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip

CASES = [
    "entry point", "strategy", "loaders", "shape", "layers", "layers in shards", "frozen", "buffer", "nothing",
]  # fmt: skip


class Odd(BoringModule):
    """What process 1 makes otherwise, by `case`."""

    def __init__(self, case: str, rank: int) -> None:
        super().__init__()
        width = 3 + rank if case == "shape" else 3
        self.extra = torch.nn.ModuleList(
            [torch.nn.Linear(width, 2) for _ in range(1 + rank * case.startswith("layers"))]
        )
        if case == "frozen" and rank == 1:
            self.extra.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(2) if case == "buffer" and rank == 1 else None)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self(batch).square().mean()
        return loss + 0 * torch.stack([parameter.sum() for parameter in self.extra.parameters()]).sum()


def differing(cases: list[str]) -> dict[str, str]:
    """Return what each case ended with: an error's text, or "done"."""
    return {case: _run(case) for case in cases}


def _run(case: str) -> str:
    rank = Trainer(**QUIET).global_rank
    here: dict[str, dict[str, Any]] = {
        "strategy": {"strategy": ("ddp", "fsdp")[rank]},
        "layers in shards": {"strategy": "fsdp"},
    }
    trainer = Trainer(**{**QUIET, **here.get(case, {})})
    data: DataLoader[Any] = DataLoader(list(torch.ones(8, 4)), batch_size=2)  # type: ignore[arg-type]
    try:
        if case == "entry point" and rank == 1:
            trainer.validate(Odd(case, rank), data, verbose=False)
        else:
            trainer.fit(Odd(case, rank), data, data if case == "loaders" and rank == 0 else None)
    except MisconfigurationException as error:
        return str(error)
    return "done"
