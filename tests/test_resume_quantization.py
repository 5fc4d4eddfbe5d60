"""Exact resume of quantisation-aware training: ranges, switches and counts are those of the run that was not cut."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cut_at import Cut, CutAt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    ModelPruning,
    QuantizationAwareTraining,
    StochasticWeightAveraging,
    WeightAveraging,
)
from leyden.loggers import CSVLogger


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 1)

    def forward(self, batch: Tensor) -> Tensor:
        scores: Tensor = self.head(self.backbone(batch))
        return scores

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self(batch) - 1).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).pow(2).mean() + torch.rand(()))

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


DATA = torch.linspace(-1, 1, 32).view(8, 4)
FUSE = [["backbone.0", "backbone.1"], ["backbone.3", "backbone.4"]]


def fit(
    folder: Path, seed: int, quantize: dict[str, Any], checkpoint: dict[str, Any], *callbacks: Callback,
    ckpt_path: str | None = None, first: bool = False, **settings: Any,
) -> Any:  # fmt: skip
    for make_seed in (torch.manual_seed, random.seed, np.random.seed):
        make_seed(seed)
    module, quantizes = Net(), QuantizationAwareTraining(modules_to_fuse=FUSE, **quantize)
    saves = ModelCheckpoint(folder / "saved", save_top_k=-1, save_last=True, **checkpoint)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=CSVLogger(folder),
        callbacks=[*callbacks, quantizes, saves] if first else [quantizes, saves, *callbacks],
        discover_callbacks=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        **settings,
    )
    train: Any = DataLoader(DATA, batch_size=2, shuffle=True)  # type: ignore[arg-type]  # a tensor is a dataset
    val: Any = DataLoader(DATA, batch_size=4, shuffle=True)  # type: ignore[arg-type]
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    output = module(DATA)
    trainer.save_checkpoint(folder / "end.ckpt")
    state = torch.load(folder / "end.ckpt")
    with Path(trainer.log_dir or "", "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "int8": output.tolist(),
        "weights": {name: value.tolist() for name, value in state["state_dict"].items()},
        "optimizer": repr(state["optimizer_states"]),
        "callbacks": repr({key: state["callbacks"][key] for key in state["callbacks"] if "Checkpoint" not in key}),
        "rows": rows,
    }


def last_epochs(trainer: Trainer) -> bool:
    return trainer.current_epoch >= 2


QUANTIZE: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "histogram": {"observer_type": "histogram", "qconfig": "x86"},
    "count": {"collect_quantization": 6},
    "function": {"collect_quantization": last_epochs},
    "validation": {"observer_enabled_stages": ("validate",), "collect_quantization": 3},
}
CUTS = [
    ("train_batch", 1), ("backward", 3), ("validation_batch", 2), ("validation_end", 1), ("epoch", 2),
    ("train_batch", 7), ("validation_batch", 5), ("epoch", 3), ("backward", 11), ("validation_batch", 6),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*checkpoints of the earlier run are gone")
@pytest.mark.parametrize("saves", ["at the exception", "every step"])
@pytest.mark.parametrize("case", QUANTIZE)
def test_a_run_that_was_cut_is_the_run_that_was_not(tmp_path: Path, case: str, saves: str) -> None:
    checkpoint = {"save_on_exception": True} if saves == "at the exception" else {"every_n_train_steps": 1}
    folder = tmp_path / "run"  # the same for all: states hold paths
    straight = fit(folder, 1, QUANTIZE[case], checkpoint)
    cuts = CUTS if case == "as it comes" else CUTS[2::3] if saves == "every step" else CUTS[::2]
    cuts = cuts[::2] if case == "histogram" else cuts  # ten times as slow
    for number, (hook, at) in enumerate(cuts):
        if saves == "every step" and (hook, at) == ("train_batch", 1):
            continue  # nothing is saved by then
        shutil.rmtree(folder)
        with pytest.raises(Cut):
            fit(folder, 1, QUANTIZE[case], checkpoint, CutAt(hook, at))
        resumed = fit(folder, 10 + number, QUANTIZE[case], checkpoint, ckpt_path="auto")
        for part in straight:
            assert resumed[part] == straight[part], (hook, at, part)


@pytest.mark.filterwarnings("ignore:.*checkpoints of the earlier run are gone")
@pytest.mark.parametrize("hook_at", CUTS[1::3])
def test_in_a_window_of_accumulation(tmp_path: Path, hook_at: tuple[str, int]) -> None:
    folder, checkpoint = tmp_path / "run", {"save_on_exception": True}
    straight = fit(folder, 1, {}, checkpoint, accumulate_grad_batches=3)
    shutil.rmtree(folder)
    with pytest.raises(Cut):
        fit(folder, 1, {}, checkpoint, CutAt(*hook_at), accumulate_grad_batches=3)
    assert fit(folder, 2, {}, checkpoint, ckpt_path="auto", accumulate_grad_batches=3) == straight


@pytest.mark.filterwarnings("ignore:.*checkpoints of the earlier run are gone")
@pytest.mark.parametrize("max_steps", [2, 4, 7])
def test_a_run_that_a_limit_cut_short_goes_on_without_it(tmp_path: Path, max_steps: int) -> None:
    folder = tmp_path / "run"
    straight = fit(folder, 1, {}, {})
    shutil.rmtree(folder)
    short = fit(folder, 1, {}, {}, max_steps=max_steps)
    assert short["int8"] != straight["int8"]
    resumed = fit(folder, 2, {}, {}, ckpt_path=str(folder / "end.ckpt"))  # made when the module was int8
    for part in ("int8", "weights", "optimizer"):
        assert resumed[part] == straight[part], part


BESIDE: dict[str, Callable[[], Callback]] = {
    "pruning": lambda: ModelPruning("l1_unstructured", amount=0.3, parameter_names=["weight"]),
    "masks that stay": lambda: ModelPruning(
        "l1_unstructured", amount=0.3, parameter_names=["weight"], make_pruning_permanent=False,
        use_lottery_ticket_hypothesis=False,
    ),
    "finetuning": lambda: BackboneFinetuning(1, lambda epoch: 1.5),
    "stopping": lambda: EarlyStopping("val", patience=3),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*checkpoints of the earlier run are gone")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_beside_others_in_either_order(tmp_path: Path, beside: str, first: bool) -> None:
    folder, checkpoint = tmp_path / "run", {"save_on_exception": True}
    straight = fit(folder, 1, {}, checkpoint, BESIDE[beside](), first=first)
    for number, (hook, at) in enumerate(CUTS[int(first) :: 4]):
        shutil.rmtree(folder)
        with pytest.raises(Cut):
            fit(folder, 1, {}, checkpoint, BESIDE[beside](), CutAt(hook, at), first=first)
        resumed = fit(folder, 10 + number, {}, checkpoint, BESIDE[beside](), ckpt_path="auto", first=first)
        for part in straight:
            assert resumed[part] == straight[part], (hook, at, part)


@pytest.mark.parametrize("average", [WeightAveraging, EMAWeightAveraging, lambda: StochasticWeightAveraging(0.01)])
def test_an_average_of_weights_is_refused(average: Callable[[], Callback]) -> None:
    for callbacks in ([average(), QuantizationAwareTraining()], [QuantizationAwareTraining(), average()]):
        with pytest.raises(MisconfigurationException, match="train with averaging first, and quantise the result"):
            Trainer(callbacks=callbacks, logger=False)
