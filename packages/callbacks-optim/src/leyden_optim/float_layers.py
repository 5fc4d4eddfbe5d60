"""Layers that torch has in floats only: told before a training of hours, not by the int8 model behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from torch import nn

from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden_optim.torch_quantization import has_ranges_by_channel

if TYPE_CHECKING:
    from torch.ao.quantization import QConfig

__all__ = ["WITHOUT_KERNEL", "check_layers"]

_WITHOUT_INT8 = (nn.Embedding, nn.EmbeddingBag, nn.GRU, nn.RNN, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear)
_ONE_RANGE_ONLY = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.PReLU)
WITHOUT_KERNEL = (
    *(nn.BatchNorm1d, nn.LocalResponseNorm, nn.CrossMapLRN2d, nn.RMSNorm),
    *(nn.CELU, nn.GLU, nn.Hardshrink, nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.RReLU, nn.SELU, nn.SiLU, nn.Softmax),
    *(nn.Softmax2d, nn.Softmin, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanhshrink),
)
"""Layers that an int8 model has as they were, and that take no quantised tensor."""

_IN_FLOATS = (
    "in floats, with `self.layer.qconfig = None` before fit, torch.ao.quantization.DeQuantStub before it where its "
    "inputs are quantised, and QuantStub behind it"
)


def check_layers(module: nn.Module, qconfig: QConfig, to_fuse: Collection[str]) -> None:
    """Refuse layers of which torch makes nothing in int8; warn of those that the int8 module could not call.

    The latter may have a use outside of ``forward``, as a softmax in ``predict_step`` has. What is in `to_fuse` becomes
    part of another layer.
    """
    kind = type(module).__name__
    refused, doubted = [], []
    for name, layer, own in _to_be_quantised(module, qconfig):
        what = f"{name} ({type(layer).__name__})"
        if isinstance(layer, _WITHOUT_INT8) or (isinstance(layer, nn.LSTM) and layer.proj_size > 0):
            refused.append(what)
        elif isinstance(layer, _ONE_RANGE_ONLY) and has_ranges_by_channel(own):
            refused.append(f"{what}, whose weight can have one range only; those of 'qnnpack' are such")
        elif isinstance(layer, WITHOUT_KERNEL) and name not in to_fuse:
            doubted.append(what)
    if refused:
        raise MisconfigurationException(
            f"{kind} has layers of which torch makes none in int8 with this qconfig; keep them {_IN_FLOATS}:\n  - "
            + "\n  - ".join(refused)
        )
    if doubted:
        rank_zero_warn(
            f"{kind}: torch has no int8 arithmetic for {', '.join(doubted)}. If forward calls them the int8 module "
            f"will fail there: fuse a BatchNorm (modules_to_fuse), and keep others {_IN_FLOATS}."
        )


def _to_be_quantised(
    module: nn.Module, inherited: QConfig | None, name: str = ""
) -> Iterator[tuple[str, nn.Module, QConfig]]:
    """Yield the parts of `module` that have a qconfig, theirs or that of what holds them."""
    if type(module).__module__.startswith("torch.ao."):  # made for it
        return
    qconfig = getattr(module, "qconfig", inherited)
    if qconfig is not None:
        yield name, module, qconfig
    for child, part in module.named_children():
        yield from _to_be_quantised(part, qconfig, f"{name}.{child}" if name else child)
