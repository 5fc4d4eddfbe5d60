"""PyTorch's global switches: set while a run lasts, and as they were after it, however it ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import LightningModule, Trainer
from leyden.runtime.numerics import numerics
from leyden.settings import Settings

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def switches() -> dict[str, Any]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "anomaly": torch.is_anomaly_enabled(),
        "grad": torch.is_grad_enabled(),
        "cublas": os.environ.get(CUBLAS),
    }


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(CUBLAS, raising=False)
    before = switches()
    yield
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn_only"])
    torch.backends.cudnn.benchmark = before["benchmark"]
    torch.set_anomaly_enabled(before["anomaly"])


class Looks(LightningModule):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[str, Any] = {}
        self.fails = fails

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen = switches()
        if self.fails:
            raise KeyError("failed")
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def predict_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen = switches()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def seen_in_a_fit(fails: bool = False, **arguments: Any) -> dict[str, Any]:
    module = Looks(fails)
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, discover_callbacks=False, **arguments)
    before = switches()
    if fails:
        with pytest.raises(KeyError):
            trainer.fit(module, [torch.ones(1, 1)])
    else:
        trainer.fit(module, [torch.ones(1, 1)])
    assert switches() == before
    return module.seen


NOTHING = {
    "deterministic": False,
    "warn_only": False,
    "anomaly": False,
    "grad": True,
    "cublas": None,
    "benchmark": False,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({}, {}),
        ({"deterministic": True}, {"deterministic": True, "cublas": ":4096:8"}),
        ({"deterministic": "warn"}, {"deterministic": True, "warn_only": True, "cublas": ":4096:8"}),
        ({"deterministic": False}, {}),
        ({"benchmark": True}, {"benchmark": True}),
        ({"benchmark": False}, {}),
        ({"deterministic": True, "benchmark": True}, {"deterministic": True, "benchmark": True, "cublas": ":4096:8"}),
        ({"detect_anomaly": True}, {"anomaly": True}),
    ],
)
def test_switches_hold_for_the_run_alone(arguments: dict[str, Any], changed: dict[str, Any], fails: bool) -> None:
    assert seen_in_a_fit(fails, **arguments) == NOTHING | changed


def test_what_the_program_set_itself_stays_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    monkeypatch.setenv(CUBLAS, ":16:8")
    own = {"deterministic": True, "warn_only": True, "benchmark": True, "cublas": ":16:8"}
    assert seen_in_a_fit() == NOTHING | own
    assert seen_in_a_fit(deterministic=False) == NOTHING | own | {"deterministic": False, "warn_only": False}
    assert seen_in_a_fit(benchmark=False) == NOTHING | own | {"benchmark": False}
    # What is to be the same each time may not depend on which algorithm was the fastest today.
    assert seen_in_a_fit(deterministic=True) == NOTHING | own | {"warn_only": False, "benchmark": False}


def test_gradients_are_on_within_a_fit_wherever_it_is_called() -> None:
    with torch.no_grad():
        assert seen_in_a_fit()["grad"] is True
        assert not torch.is_grad_enabled()


def test_switches_hold_for_evaluation_too() -> None:
    module = Looks()
    trainer = Trainer(accelerator="cpu", deterministic=True, logger=False, discover_callbacks=False)
    trainer.predict(module, [torch.ones(1)])
    assert (module.seen["deterministic"], module.seen["grad"]) == (True, False)


def test_deterministic_makes_torch_refuse_what_is_not() -> None:
    with numerics(Settings(deterministic=True)):
        assert torch.backends.cudnn.benchmark is False
        assert torch.are_deterministic_algorithms_enabled()
