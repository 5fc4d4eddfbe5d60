"""What QuantizationAwareTraining refuses, and what it warns of, once it has a module and a trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.ao.quantization
from quantized_runs import FUSE, Net, make, net, weights_of
from torch import Tensor, nn

from leyden import LightningModule, MisconfigurationException
from leyden_optim import QuantizationAwareTraining


class Around(Net):
    """Calls its parts and not itself."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.fc(self.relu(self.bn(self.conv(batch))).flatten(1)).square().mean()
        return loss


def test_a_forward_that_is_not_called_is_an_error_after_the_first_epoch() -> None:
    with pytest.raises(MisconfigurationException, match=r"Around.forward was not called in training.*Call self\(x\)"):
        make(QuantizationAwareTraining(), limit_val_batches=0).fit(net(Around))


class Parts(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1)


def test_a_module_that_cannot_be_prepared_is_an_error() -> None:
    quantize = QuantizationAwareTraining()
    with pytest.raises(MisconfigurationException, match=r"Parts has no forward, around which inputs are quantised"):
        quantize.prepare(Parts())
    named = net()
    named.quant = nn.Identity()
    with pytest.raises(MisconfigurationException, match="has an attribute 'quant' of its own"):
        quantize.prepare(named)
    with pytest.raises(MisconfigurationException, match=r"Net has no layer 'relue'\. Did you mean 'relu'\?"):
        QuantizationAwareTraining(modules_to_fuse=[["conv", "relue"]]).prepare(net())
    with pytest.raises(MisconfigurationException, match=r"did not find fuser method for.*torch fuses Conv or Linear"):
        QuantizationAwareTraining(modules_to_fuse=[["conv", "bn"], ["relu", "fc"]]).prepare(twice := net())
    quantize.prepare(twice)  # which is as it was
    assert type(twice.conv) is torch.ao.nn.qat.Conv2d
    with pytest.raises(MisconfigurationException, match="'relu' stands there twice"):
        QuantizationAwareTraining(modules_to_fuse=[["conv", "relu"], ["fc", "relu"]]).prepare(net())


def test_int8_is_refused_where_it_cannot_be_made() -> None:
    quantize = QuantizationAwareTraining()
    with pytest.raises(MisconfigurationException, match=r"Net is not fake-quantised.*prepare\(\)"):
        quantize.convert(net())
    prepared = net()
    quantize.prepare(prepared)
    with pytest.raises(MisconfigurationException, match="its observers have seen no batch"):
        quantize.convert(prepared)


def test_a_fit_that_collected_nothing_warns_and_leaves_the_module_trainable() -> None:
    module = net()
    quantize = QuantizationAwareTraining(collect_quantization=lambda trainer: False)
    with pytest.warns(UserWarning, match="collected nothing, so Net stays as it is"):
        make(quantize).fit(module)
    make(QuantizationAwareTraining()).fit(module)
    assert weights_of(module.fc) is torch.qint8


def test_layers_that_no_batch_went_through_are_named() -> None:
    module = net()
    module.spare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="no observer has seen the values of spare"):
        make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(module)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(MisconfigurationException, match=r"torch quantises float32 alone; use '32-true'"):
        make(QuantizationAwareTraining(), precision=precision).fit(net())


def test_an_int8_module_of_another_trainer_trains_no_more() -> None:
    module = net()
    make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(module)
    with pytest.raises(MisconfigurationException, match=r"Net is int8 and trains no more.*convert\(\)"):
        make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(module)


def test_an_int8_module_is_refused_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = net(), make(QuantizationAwareTraining(modules_to_fuse=FUSE))
    trainer.fit(module)
    monkeypatch.setattr(trainer.strategy, "root_device", torch.device("cuda"))
    with pytest.raises(MisconfigurationException, match=r"on cuda: test with Trainer\(accelerator='cpu'\)"):
        trainer.test(module, verbose=False)


def test_a_checkpoint_without_ranges_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    trainer = make(max_epochs=1)
    trainer.fit(net())
    trainer.save_checkpoint(tmp_path / "float.ckpt")
    with pytest.raises(MisconfigurationException, match=r"is of a run without QuantizationAwareTraining.*load_from"):
        make(QuantizationAwareTraining()).fit(net(), ckpt_path=tmp_path / "float.ckpt")


def test_two_of_them_are_refused() -> None:
    one, other = QuantizationAwareTraining(), QuantizationAwareTraining()
    other.name = "other"
    with pytest.raises(MisconfigurationException, match="each would fake-quantise what the other has"):
        make(one, other)
