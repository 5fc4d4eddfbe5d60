"""What callbacks that look at a model share: using it without a trace, and showing images of what they saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import leyden
from leyden.loggers import TensorBoardLogger


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Use the module without dropout, and without moving the statistics of BatchNorm.

    Each layer returns to the mode it had, not all to training: some may be frozen. Random numbers that are drawn
    inside, by a layer that draws in evaluation too, are drawn from generators that are put back afterwards.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        with leyden.isolate_rng():
            yield
    finally:
        for layer, training in modes:
            layer.training = training


def grid(images: Tensor, columns: int, scale: int = 6) -> Tensor:
    """Return one picture (1, height, width) of images (N, 1, H, W), row by row, dark on white and enlarged."""
    paper = functional.pad(1 - images.detach().float().cpu().clamp(0, 1), (1, 1, 1, 1), value=1.0)
    rows = paper.view(-1, columns, *paper.shape[1:])
    picture = rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return picture.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)


def log_picture(trainer: leyden.Trainer, name: str, picture: Tensor) -> None:
    """Write a picture to each TensorBoardLogger of the run; without one nothing is written."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture (1, height, width) as a file, in 16 shades of grey, which is what the digits have."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    shades = (picture[0] * 15).round() * 17
    Image.fromarray(shades.to(torch.uint8).numpy()).save(path, optimize=True)
    print(f"Picture: {path}")


def save_curves(curves: dict[str, list[float]], of: str, path: Path) -> None:
    """Draw numbers of each epoch; without matplotlib there is no picture."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f"No {path.name}: pip install matplotlib")
        return
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=of)
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name)
    axes.legend()
    figure.savefig(path, metadata={"Software": None})
    print(f"Picture: {path}")
