"""A CNN on scikit-learn's digits: how good its int8 model is, how large, and whether it runs in another process."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from leyden import LightningModule, Trainer
from leyden_optim import QuantizationAwareTraining

FUSE = [["body.0", "body.1", "body.2"], ["body.4", "body.5", "body.6"], ["head.1", "head.2"]]
LOADS = """
import sys, warnings
warnings.simplefilter("error")
import torch
from leyden_optim import QuantizationAwareTraining
from test_quantization_on_digits import FUSE, Classifier

engine, weights, images, expected = sys.argv[1:]
int8 = QuantizationAwareTraining(engine, modules_to_fuse=FUSE).load_int8(Classifier(), weights)
assert torch.equal(int8(torch.load(images)), torch.load(expected))
print("as it was saved")
"""


class Classifier(LightningModule):
    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 4, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


class Data:
    """1,347 images to train on, 450 to test with."""

    def __init__(self) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        self.images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 16
        self.labels = torch.tensor(digits.target)[order]

    def training(self) -> Any:
        return DataLoader(TensorDataset(self.images[:1347], self.labels[:1347]), batch_size=32, shuffle=True)

    @torch.inference_mode()
    def accuracy(self, module: nn.Module) -> float:
        return float((module(self.images[1347:]).argmax(dim=1) == self.labels[1347:]).float().mean())


def fit(module: Classifier, data: Data, max_epochs: int, *callbacks: Any) -> Classifier:
    Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks)
    ).fit(module, data.training())
    return module


@pytest.fixture(scope="module")
def trained() -> tuple[Data, Classifier]:
    torch.manual_seed(1)
    data = Data()
    return data, fit(Classifier(), data, 8)


@pytest.mark.parametrize(
    ("engine", "observers"), [("fbgemm", "average"), ("x86", "average"), ("x86", "histogram"), ("qnnpack", "average")]
)
def test_the_int8_model_is_as_good_much_smaller_and_runs_in_another_process(
    engine: str, observers: Any, trained: tuple[Data, Classifier], tmp_path: Path
) -> None:
    data, floats = trained
    int8 = copy.deepcopy(floats).train()
    int8.learning_rate /= 10
    collect = None if observers == "average" else 10
    torch.manual_seed(2)
    fit(int8, data, 1, QuantizationAwareTraining(engine, observers, collect, modules_to_fuse=FUSE))

    expected, reached = data.accuracy(floats.eval()), data.accuracy(int8)
    assert expected > 0.97
    assert reached >= expected - 0.01

    for name, module in (("float.pt", floats), ("int8.pt", int8)):
        torch.save(module.state_dict(), tmp_path / name)
    sizes = [(tmp_path / name).stat().st_size for name in ("float.pt", "int8.pt")]
    assert sizes[0] >= 3.5 * sizes[1]

    torch.save(data.images[:50], tmp_path / "images.pt")
    torch.save(int8(data.images[:50]), tmp_path / "scores.pt")
    paths = [str(tmp_path / name) for name in ("int8.pt", "images.pt", "scores.pt")]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{LOADS}"
    done = subprocess.run([sys.executable, "-c", code, engine, *paths], capture_output=True, text=True, check=False)
    assert done.stdout == "as it was saved\n", done.stderr


def settled(trainer: Trainer) -> bool:
    return trainer.current_epoch >= 2


def test_one_training_that_begins_in_floats_is_as_good(trained: tuple[Data, Classifier]) -> None:
    data, floats = trained
    torch.manual_seed(1)
    quantize = QuantizationAwareTraining(collect_quantization=settled, modules_to_fuse=FUSE)
    int8 = fit(Classifier(), data, 8, quantize)
    assert data.accuracy(int8) >= data.accuracy(floats.eval()) - 0.01
