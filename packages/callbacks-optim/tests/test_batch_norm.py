"""BatchNorm statistics in a pass of their own: which layers, what they see, and what is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden_optim.batch_norm import layers_to_update, update_statistics

BATCHES = [torch.linspace(-1, 1, 12).view(4, 3) * (n + 1) for n in range(3)]


class Net(LightningModule):
    def __init__(self, *, manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=0.2), nn.Linear(3, 1))
        self.untracked = nn.BatchNorm1d(3, track_running_stats=False)
        self.frozen = nn.BatchNorm1d(3).eval().requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(self.frozen(self.untracked(inputs)))
        return outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs: Tensor = self(batch if isinstance(batch, Tensor) else batch["inputs"])
        return outputs.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


class Pass(Callback):
    """Makes the pass, which leaves gradients as they are, where training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = [gradient.clone() for gradient in gradients_of(pl_module)]
        update_statistics(trainer, pl_module, 0)
        assert all(map(torch.equal, before, gradients_of(pl_module)))


def fit(module: LightningModule, batches: Any, *callbacks: Callback) -> None:
    trainer = Trainer(
        max_epochs=1, logger=False, callbacks=list(callbacks), discover_callbacks=False, accelerator="cpu"
    )
    trainer.fit(module, batches)


@pytest.mark.parametrize("manual", [False, True])
def test_statistics_are_those_of_update_bn(manual: bool) -> None:
    module = Net(manual=manual)
    if manual:
        module.training_step = lambda batch, batch_idx: None  # type: ignore[assignment, method-assign, return-value]
    assert layers_to_update(module) == [module.net[1]]
    fit(module, BATCHES, Pass())
    statistics = {name: buffer.clone() for name, buffer in module.net.named_buffers()}
    frozen = module.frozen.running_mean.clone()  # type: ignore[union-attr]
    assert module.net[1].momentum == 0.2
    assert torch.equal(frozen, torch.zeros(3))
    module.frozen.requires_grad_(True)
    inputs = [module.frozen(module.untracked(batch)) for batch in BATCHES]
    swa_utils.update_bn(inputs, module.net)
    for name, buffer in module.net.named_buffers():
        assert torch.equal(buffer, statistics[name]), name


def test_a_batch_that_forward_is_not_made_for() -> None:
    module = Net(manual=True)
    module.training_step = lambda batch, batch_idx: None  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(MisconfigurationException, match=r"this is a dict\. Override Stoch.*\.update_batch_norm"):
        fit(module, [{"inputs": batch} for batch in BATCHES], Pass())
    assert module.net[1].momentum == 0.2
    fit(Net(), [{"inputs": batch} for batch in BATCHES], Pass())


def test_a_step_that_differentiates_within_itself() -> None:
    class Penalised(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs = batch.clone().requires_grad_()
            outputs = self(inputs).sum()
            (slope,) = torch.autograd.grad(outputs, inputs, create_graph=True)
            loss: Tensor = outputs + slope.pow(2).mean()
            return loss

    module = Penalised()
    fit(module, BATCHES, Pass())
    assert int(module.net[1].num_batches_tracked) == 3  # type: ignore[arg-type]


def test_a_pass_that_fails_leaves_the_momentum() -> None:
    class Fails(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.trainer.current_epoch == 1 and batch_idx == 1:
                raise KeyError("in the pass")
            return super().training_step(batch, batch_idx)

    module = Fails()
    with pytest.raises(KeyError, match="in the pass"):
        fit(module, BATCHES, Pass())
    assert module.net[1].momentum == 0.2
