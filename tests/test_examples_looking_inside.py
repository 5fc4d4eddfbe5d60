"""Examples of callbacks that look into a model: what they show is so, and the training goes as it does without them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gradient_flip
import latent_walk
import online_probe
import pytest
import sampling
import torch
from cnn import Classifier
from digits_data import Batch, digits, loaders, one_of_each
from flow import Flow
from gradient_flip import GradientFlip
from latent_walk import LatentWalk
from online_probe import OnlineProbe
from sampling import SampleImages
from simclr import SimCLR
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from vae import VAE
from watching import evaluating, grid

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import TensorBoardLogger
from leyden.state.checkpoint import dump
from leyden.testing import callback_tests

CASES: dict[str, tuple[Callable[[], Callback], type[LightningModule]]] = {
    "OnlineProbe": (lambda: OnlineProbe(features=8), SimCLR),
    "GradientFlip": (lambda: GradientFlip(one_of_each()[0]), Classifier),
    "LatentWalk": (lambda: LatentWalk(one_of_each()[0]), VAE),
    "SampleImages": (lambda: SampleImages(torch.arange(10)), Flow),
}


@pytest.fixture(autouse=True)
def _level_of_messages() -> Iterator[None]:
    """The examples' `main` sets it for a process of their own."""
    logger = logging.getLogger("leyden")
    level = logger.level
    yield
    logger.setLevel(level)


def fit(
    kind: type[LightningModule], *callbacks: Callback, seed: int = 1, ckpt_path: Path | None = None, **arguments: Any
) -> tuple[Trainer, dict[str, Any]]:
    """Fit on the digits; return the trainer, and what a checkpoint at the end holds of the training itself."""
    torch.manual_seed(seed)
    options = {"max_epochs": 2, "logger": TensorBoardLogger("logs"), "enable_checkpointing": False, **arguments}
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), discover_callbacks=False, **options)
    train, held_out = loaders(batch_size=256)
    trainer.fit(kind(), train, held_out if kind in (SimCLR, Classifier) else None, ckpt_path=ckpt_path)
    end = dump(trainer)
    for name in ("callbacks", "callback_versions", "metrics", "loggers"):
        end.pop(name, None)
    del end["loops"]["fit_loop"]["draws"]  # of loaders that will not be read again
    return trainer, end | {"loss": trainer.callback_metrics["loss"]}


def pictures(folder: str | Path, tag: str) -> list[tuple[int, bytes]]:
    """Return step and PNG of each picture that TensorBoard would show."""
    reader = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return [(event.step, event.encoded_image_string) for event in reader.Images(tag)]


@pytest.mark.parametrize("name", CASES)
def test_the_training_is_bit_for_bit_the_one_without(
    name: str, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    make, kind = CASES[name]
    _, alone = fit(kind, accumulate_grad_batches=2)
    _, beside = fit(kind, make(), accumulate_grad_batches=2)
    assert not list(named_differences(beside, alone))


@pytest.mark.parametrize("name", ["GradientFlip", "LatentWalk", "SampleImages"])
def test_each_epoch_has_a_picture_of_its_own_in_tensorboard(name: str) -> None:
    make, kind = CASES[name]
    trainer, _ = fit(kind, make())
    tag = {"GradientFlip": "gradient_flip", "LatentWalk": "latent_walk", "SampleImages": "samples"}[name]
    (first, of_first), (second, of_second) = pictures(trainer.log_dir or "", tag)
    assert [first, second] == [6, 12]  # the steps of which each has made six
    assert of_first.startswith(b"\x89PNG")
    assert of_first != of_second
    fit(kind, make(), logger=False, precision="bf16-true")  # nothing to write to, and weights that are no float32


def test_a_model_is_left_in_the_modes_and_the_random_state_it_had() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.RReLU()).train()
    model[1].eval()  # frozen
    state = torch.get_rng_state()
    with evaluating(model):
        assert not any(layer.training for layer in model.modules())
        torch.rand(1)
    assert [layer.training for layer in model.modules()] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_grid_has_the_images_row_by_row() -> None:
    images = torch.tensor([0.0, 1.0, 0.25, 2.0]).view(4, 1, 1, 1)
    picture = grid(images, columns=2, scale=1)
    assert picture.shape == (1, 6, 6)
    assert picture[0, [1, 1, 4, 4], [1, 4, 1, 4]].tolist() == [1.0, 0.0, 0.75, 0.0]  # dark on white


# -- the kit -----------------------------------------------------------------------------------------------------------


@cache
def few_digits(count: int) -> TensorDataset:
    images, labels = digits()[0][:count]
    return TensorDataset(images, labels)


class WithData(LightningModule):
    """Brings the data and the steps that the kit runs a module with."""

    def train_dataloader(self) -> Any:
        return DataLoader(few_digits(32), batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(few_digits(8), batch_size=4)

    test_dataloader = predict_dataloader = val_dataloader

    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def test_step(self, batch: Batch, batch_idx: int) -> None: ...

    def predict_step(self, batch: Batch, batch_idx: int) -> None: ...


def checked(name: str, **what: Any) -> Callable[..., None]:
    make, kind = CASES[name]
    return callback_tests(make, module=type(kind.__name__, (WithData, kind), {}), only_watches=True, **what)


test_online_probe = checked("OnlineProbe", calls_per_step=400)  # a step of its own, with an optimizer
test_gradient_flip = checked("GradientFlip", calls_per_step=0)
test_latent_walk = checked("LatentWalk", calls_per_step=0)
test_sample_images = checked("SampleImages", calls_per_step=0)


# -- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_tells_a_trained_encoder_from_an_untrained_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = online_probe.main(["--max-epochs", "8", "--folder", str(tmp_path)])
    trained, untrained = curves["trained encoder"], curves["untrained"]
    assert 0.2 < untrained[-1] < 0.75  # features of chance are worth something: 0.1 is guessing
    assert trained[-1] > untrained[-1] + 0.1
    assert trained[-1] > trained[0] + 0.15
    assert trained[-1] > 0.75
    assert (tmp_path / "online_probe.png").read_bytes().startswith(b"\x89PNG")


def test_the_probe_goes_on_bit_for_bit_from_within_an_epoch(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    whole, resumed = OnlineProbe(features=8), OnlineProbe(features=8)
    savers = [ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=4) for _ in range(2)]
    trainer, end = fit(SimCLR, whole, savers[0], enable_checkpointing=True)
    again, end_again = fit(
        SimCLR, resumed, savers[1], enable_checkpointing=True, seed=2, ckpt_path=tmp_path / "step=8.ckpt"
    )
    assert not list(named_differences(resumed.state_dict(), whole.state_dict()))
    assert not list(named_differences(end_again, end))
    assert again.callback_metrics["probe_acc"] == trainer.callback_metrics["probe_acc"]


def test_two_probes_are_kept_apart() -> None:
    slow, fast = OnlineProbe(features=8, lr=0.001, name="slow"), OnlineProbe(features=8, name="fast")
    trainer, _ = fit(SimCLR, slow, fast)
    assert {"slow_acc", "fast_acc"} <= set(trainer.callback_metrics)
    assert not torch.equal(slow.head.weight, fast.head.weight)
    assert len({slow.state_key, fast.state_key}) == 2


# -- flipping ---------------------------------------------------------------------------------------------------------


def test_every_image_is_taken_for_another_digit_after_a_small_change(tmp_path: Path) -> None:
    flips = gradient_flip.main(["--max-epochs", "4", "--folder", str(tmp_path)])
    images, labels = one_of_each()
    assert (flips.classes_before == labels).sum() >= 8
    assert (flips.classes_after != flips.classes_before).all()
    assert (flips.distances > 0).all()
    assert flips.distances.mean() < 0.4 * images.flatten(1).norm(dim=1).mean()
    assert flips.flipped.min() >= 0
    assert flips.flipped.max() <= 1
    assert not torch.equal(flips.flipped, images)
    assert torch.equal(images, flips.images)
    assert (tmp_path / "gradient_flip.png").is_file()


def test_flips_are_of_the_model_that_trained_and_leave_its_gradients() -> None:
    flips = GradientFlip(one_of_each()[0])
    trainer, _ = fit(Classifier, flips)
    module = trainer.lightning_module
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    with evaluating(module):
        assert torch.equal(module(flips.flipped).argmax(dim=1), flips.classes_after)
        flips.flip(module, flips.images)
    assert {value for one in parameters if one.grad is not None for value in one.grad.flatten().tolist()} == {2.0}
    assert trainer.callback_metrics["flip_distance"] == pytest.approx(flips.distances.mean().item())


def test_an_image_that_holds_out_keeps_its_class() -> None:
    flips = GradientFlip(one_of_each()[0], step=1e-6, max_steps=3)
    fit(Classifier, flips, max_epochs=1)
    assert torch.equal(flips.classes_after, flips.classes_before)


# -- walking ----------------------------------------------------------------------------------------------------------


def test_a_walk_leads_from_image_to_image_and_looks_different_on_the_way(tmp_path: Path) -> None:
    walk = latent_walk.main(["--max-epochs", "8", "--folder", str(tmp_path)])
    seen = walk.seen
    assert seen.shape == (10, 10, 1, 8, 8)
    assert torch.equal(seen[:, -1], seen[:, 0].roll(-1, dims=0))  # each begins where the one before ended
    likeness = -torch.cdist(seen[:, 0].flatten(1), walk.images.flatten(1))
    assert (likeness.argmax(dim=1) == torch.arange(10)).sum() >= 8  # what is decoded is like what was encoded
    steps = (seen[:, 1:] - seen[:, :-1]).flatten(2).norm(dim=2)
    assert (steps > 0).all()
    way = (seen[:, -1] - seen[:, 0]).flatten(1).norm(dim=1)
    assert (steps < way.unsqueeze(1)).all()  # no jump from one to the other
    assert (tmp_path / "latent_walk.png").is_file()


def test_walks_may_be_rarer() -> None:
    trainer, _ = fit(VAE, LatentWalk(one_of_each()[0][:3], steps=4, every_n_epochs=2), max_epochs=3)
    assert [step for step, _ in pictures(trainer.log_dir or "", "latent_walk")] == [12]


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_samples_become_the_digits_they_are_to_be(tmp_path: Path) -> None:
    shares = sampling.main(["--max-epochs", "8", "--folder", str(tmp_path)])
    assert shares[0] < 0.5
    assert shares[-1] > 0.8
    assert (tmp_path / "sampling.png").is_file()


def test_the_noise_is_the_same_each_time_and_of_a_generator_of_its_own() -> None:
    state = torch.get_rng_state()
    one, other, third = (SampleImages(torch.arange(3), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.noise, other.noise)
    assert not torch.equal(one.noise, third.noise)
