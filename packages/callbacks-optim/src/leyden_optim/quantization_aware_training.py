"""QuantizationAwareTraining: trains a module as int8 arithmetic will compute it, and makes the int8 module."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import nn

from leyden.arguments import refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden_optim import quantized_parts as parts
from leyden_optim import torch_quantization as quantization
from leyden_optim.quantization_arguments import groups_of, problems_with
from leyden_optim.quantized_module import (
    QuantizedForward,
    Trainable,
    check_ranges,
    fake_quantise,
    forward_not_called,
    with_children,
)

if TYPE_CHECKING:
    from torch.ao.quantization import QConfig

    from leyden import LightningModule, Trainer
    from leyden.runtime.strategy import Strategy

__all__ = ["QuantizationAwareTraining"]

M = TypeVar("M", bound=nn.Module)


class QuantizationAwareTraining(Callback):
    """Rounds weights and activations in training as int8 does, so that the int8 module loses next to no accuracy.

    Args:
        qconfig: the engine that will run it: ``"fbgemm"`` or ``"x86"`` on servers, ``"qnnpack"`` on ARM, ``"onednn"``;
            each with torch's own settings for training. Or a ``torch.ao.quantization.QConfig`` of fake-quantising
            parts.
        observer_type: ``"average"``: ranges are moving averages of the least and the greatest value; ``"histogram"``:
            those of least error, at many times the cost of the layer (not with a QConfig, which names its own).
        collect_quantization: in which batches of the `observer_enabled_stages` ranges of activations are observed: None
            is all, an int of at least 1 the first so many, a function of the trainer is asked before each batch.
            Weights need no data: from the first on they are observed in every training batch.
        modules_to_fuse: names of layers that become one, as ``[["conv", "bn", "relu"], ["fc", "act"]]``.
        input_compatible: the int8 module takes and gives floats, as before. With False it takes ``module.quant(x)`` and
            gives what ``module.dequant(y)`` makes floats, and can be scripted.
        quantize_on_fit_end: the trained module becomes int8 when fit has ended; else see `convert`.
        observer_enabled_stages: some of ``"train"``, ``"validate"``, ``"test"``, ``"predict"``; the sanity check is
            none of them.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; at the start of fit for names to fuse
            that are not there, and for precisions and modules that cannot be quantised.
        ImportError: torch no longer has torch.ao.quantization.

    Example:
        >>> import torch
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> quantize = QuantizationAwareTraining()
        >>> trainer = Trainer(max_epochs=1, logger=False, accelerator="cpu", callbacks=[quantize])
        >>> module = BoringModule()
        >>> trainer.fit(module)
        >>> module.layer.weight().dtype, module(torch.ones(1, 4)).dtype
        (torch.qint8, torch.float32)
    """

    def __init__(
        self,
        qconfig: str | QConfig = "fbgemm",
        observer_type: Literal["average", "histogram"] = "average",
        collect_quantization: int | Callable[[Trainer], bool] | None = None,
        modules_to_fuse: Sequence[Sequence[str]] | None = None,
        input_compatible: bool = True,
        quantize_on_fit_end: bool = True,
        observer_enabled_stages: Sequence[str] = ("train",),
    ) -> None:
        super().__init__()
        quantization.require_quantization(type(self).__name__)
        flags = {"input_compatible": input_compatible, "quantize_on_fit_end": quantize_on_fit_end}
        refuse(
            type(self).__name__,
            problems_with(
                qconfig, observer_type, collect_quantization, modules_to_fuse, observer_enabled_stages, flags
            ),
        )
        self.qconfig = qconfig
        self.observer_type = observer_type
        self.collect_quantization = collect_quantization
        self.modules_to_fuse = groups_of(modules_to_fuse)
        self.input_compatible = input_compatible
        self.quantize_on_fit_end = quantize_on_fit_end
        self.observer_enabled_stages = tuple(observer_enabled_stages)
        self._batches = 0  # in which observers have collected
        self._switches: tuple[bool, bool] | None = None  # None: as the module has them, whatever that is
        self._begun: bool | None = None  # whether observers had collected anything; None: not looked at yet
        self._trained = False  # a batch in this fit
        self._trainable: Trainable | None = None  # of the module that is int8 now
        self._converts_again = False

    def conflict_with(self, other: Callback) -> str | None:
        """Two of these would quantise one module twice."""
        if isinstance(other, QuantizationAwareTraining):
            return "each would fake-quantise what the other has fake-quantised; give one of them"
        return None

    def conflict_with_strategy(self, strategy: Strategy) -> str | None:
        """Observers of torch look at whole weights."""
        if strategy.shards_weights:
            return "torch quantises whole weights, and a process has a part of each; use strategy='ddp'"
        return None

    # -- what it makes of a module ------------------------------------------------------------------------------------

    def prepare(self, pl_module: nn.Module) -> None:
        """Make `pl_module` fake-quantise, in place, as fit does: to load the weights of a checkpoint into it, say.

        One that does already stays as it is. Until its observers have seen a batch it computes in floats.

        Raises:
            MisconfigurationException: a name to fuse is not there, the layers cannot be fused or quantised, or the
                module has no forward to quantise the inputs of.
        """
        if not parts.fake_quants(pl_module):
            qconfig = quantization.made_qconfig(self.qconfig, self.observer_type)
            fake_quantise(pl_module, qconfig, self.modules_to_fuse)

    def convert(self, pl_module: M) -> M:
        """Return an int8 copy of a fake-quantised module, on the CPU and in evaluation mode; `pl_module` trains on.

        Raises:
            MisconfigurationException: `pl_module` is not fake-quantised, or its observers have seen no batch.
        """
        if parts.is_int8(pl_module):
            return copy.deepcopy(pl_module)
        return with_children(pl_module, self._int8_children(pl_module), wrapped=self.input_compatible)

    def load_int8(self, pl_module: M, weights: str | os.PathLike[str] | Mapping[str, Any]) -> M:
        """Return an int8 copy of a float module, with the weights that an int8 one's ``state_dict()`` gave.

        `weights` are these, or the path of the file that ``torch.save`` wrote of them; it is read safely. The engine
        should be the one that they were trained for.

        Raises:
            MisconfigurationException: `weights` are not those of an int8 module.
        """
        stored = weights if isinstance(weights, Mapping) else quantization.read_int8(weights)
        if not parts.holds_int8(stored):
            raise MisconfigurationException(
                f"{type(self).__name__}.load_int8(...): none of the weights are int8. It loads what state_dict() of an "
                "int8 module gave. The weights of a checkpoint are for a module that was given to prepare(), of which "
                "convert() makes the int8 one."
            )
        twin = copy.deepcopy(pl_module)
        self.prepare(twin)
        children = quantization.int8_children(twin, self._engine)
        loaded = with_children(twin, children, wrapped=self.input_compatible)
        with quantization.packing_for(self._engine):
            loaded.load_state_dict(stored)
        return loaded

    @property
    def _engine(self) -> str | None:
        return self.qconfig if isinstance(self.qconfig, str) else None

    def _int8_children(self, pl_module: nn.Module) -> dict[str, nn.Module | None]:
        collected = (
            f"They collect in {' and '.join(self.observer_enabled_stages)}, as far as "
            f"collect_quantization={self.collect_quantization!r} lets them."
        )
        check_ranges(pl_module, type(self).__name__, collected)
        return quantization.int8_children(pl_module, self._engine)

    # -- the run ------------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {
            "observer_type": self.observer_type,
            "modules_to_fuse": self.modules_to_fuse,
            "observer_enabled_stages": self.observer_enabled_stages,
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let a module train on that an earlier fit made int8; refuse what cannot be trained or run."""
        self._switches, self._begun, self._trained = None, None, False
        if stage == "fit":
            self._batches = 0
            self._put_back(pl_module)
            if trainer.precision.endswith("-true") and trainer.precision != "32-true":
                raise MisconfigurationException(
                    f"Trainer(precision={trainer.precision!r}): torch quantises float32 alone; use '32-true' with "
                    f"{type(self).__name__}, or 'bf16-mixed'."
                )
        if not parts.is_int8(pl_module):
            return
        if stage == "fit":
            raise MisconfigurationException(
                f"{type(pl_module).__name__} is int8 and trains no more. Train a new one from a checkpoint, or keep it "
                f"with {type(self).__name__}(quantize_on_fit_end=False) and take the int8 one from convert()."
            )
        device = trainer.strategy.root_device.type
        if device != "cpu":
            raise MisconfigurationException(
                f"{type(pl_module).__name__} is int8, for which torch has kernels on the CPU alone, and this Trainer "
                f"computes on {device}: {stage} with Trainer(accelerator='cpu')."
            )

    def prepare_module(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any] | None
    ) -> None:
        """Make the module fake-quantise: to train it, or to load the weights of one that did."""
        fits = trainer.state.fn == "fit"
        held = checkpoint is not None and _is_fake_quantised(checkpoint)
        if fits and checkpoint is not None and not held:
            raise MisconfigurationException(
                f"ckpt_path={str(trainer.ckpt_path)!r} is of a run without {type(self).__name__}: it has no ranges of "
                f"values to go on from. Load its weights with {type(pl_module).__name__}.load_from_checkpoint(path) "
                "and fit without ckpt_path."
            )
        if held and self._put_back(pl_module):
            self._converts_again = True
        if fits or held:
            self.prepare(pl_module)
            if trainer.precision.endswith("-mixed"):
                parts.fake_quantise_in_float32(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make a module int8 again that was before its weights were loaded."""
        if self._converts_again:
            self._converts_again = False
            self._become_int8(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Switch the observers as this batch wants them."""
        self._trained = True
        self._switch(trainer, pl_module, "train")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Switch the observers as this batch wants them."""
        self._switch(trainer, pl_module, "validate")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Switch the observers as this batch wants them."""
        self._switch(trainer, pl_module, "test")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Switch the observers as this batch wants them."""
        self._switch(trainer, pl_module, "predict")

    def _switch(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        collect = self._wants(trainer, stage)
        training = stage == "train"
        if self._switches == (collect, training):
            return
        self._switches = collect, training
        if self._begun is None:
            self._begun = parts.has_begun(pl_module)
        begins = collect and not self._begun
        # Weights need no data to be observed, and each step gives them others: a range that stayed behind would clip.
        weights = begins or (training and self._begun)
        parts.switch_observers(pl_module, activations=collect, weights=weights, begins=begins)
        self._begun = self._begun or begins

    def _wants(self, trainer: Trainer, stage: str) -> bool:
        asked = self.collect_quantization
        if stage not in self.observer_enabled_stages or trainer.sanity_checking:
            return False
        if callable(asked):
            return bool(asked(trainer))
        if asked is not None:
            if self._batches >= asked:
                return False
            self._batches += 1
        return True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out in the first epoch, not when all are trained, that inputs go past the forward."""
        forward = pl_module.__dict__.get("forward")
        if self._trained and isinstance(forward, QuantizedForward) and not forward.called:
            raise forward_not_called(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the module int8, when everyone else is done with it."""
        if self.quantize_on_fit_end:
            trainer.plan.when_done(partial(self._quantize, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Collect no more: what the user calls the module with afterwards is no data of the run."""
        self._switches, self._converts_again = None, False
        parts.switch_observers(pl_module, activations=False, weights=False)

    # -- int8 and back ------------------------------------------------------------------------------------------------

    def _quantize(self, pl_module: LightningModule) -> None:
        if parts.has_begun(pl_module):
            self._become_int8(pl_module)
        elif self._trained:
            rank_zero_warn(
                f"{type(self).__name__} collected nothing, so {type(pl_module).__name__} stays as it is: "
                f"collect_quantization={self.collect_quantization!r} let the observers see no batch of "
                f"{', '.join(self.observer_enabled_stages)}."
            )

    def _become_int8(self, pl_module: nn.Module) -> None:
        """Give the module int8 children; those that can be trained are kept for a fit to come."""
        children = self._int8_children(pl_module)
        self._trainable = Trainable(pl_module)
        pl_module._modules.clear()
        pl_module._modules.update(children)
        pl_module.cpu().eval()
        if not self.input_compatible:
            pl_module.__dict__.pop("forward", None)

    def _put_back(self, pl_module: nn.Module) -> bool:
        """Make a module fake-quantised again that this made int8; return whether it was."""
        kept, self._trainable = self._trainable, None
        if kept is None or kept.module is not pl_module:
            return False
        kept.put_back()
        return True

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches that counted; ranges and switches are buffers of the module."""
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._batches = state_dict["batches"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the fake-quantised weights in, also where the module has become int8."""
        if self._trainable is not None and self._trainable.module is pl_module:
            checkpoint["state_dict"] = self._trainable.state_dict()


def _is_fake_quantised(checkpoint: Mapping[str, Any]) -> bool:
    return any(str(key).endswith("fake_quant_enabled") for key in checkpoint.get("state_dict") or ())
