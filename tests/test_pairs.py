"""Each two callbacks that steer a training in one trainer: cut and gone on with exactly, or refused with a reason."""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cut_runs import Cut, Setting, ends, train

from leyden import Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    QuantizationAwareTraining,
    StochasticWeightAveraging,
)
from leyden.errors import MisconfigurationException

Differences = Callable[[Any, Any], Iterable[str]]

SETTINGS: dict[str, Setting] = {
    # Never better than the first validation by so much: it stops after as many more as its patience.
    "EarlyStopping": Setting(lambda folder: [EarlyStopping("val", patience=6, min_delta=1e9)], {"max_epochs": 9}),
    "StochasticWeightAveraging": Setting(lambda folder: [StochasticWeightAveraging(0.02, 2, annealing_epochs=2)]),
    "EMAWeightAveraging": Setting(lambda folder: [EMAWeightAveraging(decay=0.7, update_starting_at_step=3)]),
    "GradientAccumulationScheduler": Setting(lambda folder: [GradientAccumulationScheduler({0: 1, 2: 2})]),
    "accumulate_grad_batches": Setting(arguments={"accumulate_grad_batches": 2}),
    "ModelPruning": Setting(lambda folder: [ModelPruning("l1_unstructured", amount=0.2)]),
    "QuantizationAwareTraining": Setting(
        lambda folder: [QuantizationAwareTraining(modules_to_fuse=[["backbone.0", "backbone.1"]])]
    ),
    "BackboneFinetuning": Setting(lambda folder: [BackboneFinetuning(1, lambda epoch: 1.5)]),
    "ModelCheckpoint": Setting(
        lambda folder: [ModelCheckpoint(folder / "best", "{epoch}-{step}", monitor="val", save_top_k=2, save_last=True)]
    ),
}


OTHERWISE: dict[str, Setting] = {
    "EarlyStopping": Setting(
        lambda folder: [EarlyStopping("loss", patience=5, min_delta=1e9, check_every_n_steps=3)], {"max_epochs": 9}
    ),
    "EMAWeightAveraging": Setting(
        lambda folder: [
            EMAWeightAveraging(decay=0.7, update_every_n_steps=2, update_starting_at_epoch=1, use_buffers=False)
        ]
    ),
    "ModelPruning": Setting(
        lambda folder: [
            ModelPruning(
                "ln_structured",
                [("backbone.0", "weight")],
                use_global_unstructured=False,
                amount=0.3,
                pruning_dim=0,
                pruning_norm=2,
                make_pruning_permanent=False,
                use_lottery_ticket_hypothesis=False,
            )
        ]
    ),
    "QuantizationAwareTraining": Setting(
        lambda folder: [
            QuantizationAwareTraining(
                observer_type="histogram",
                collect_quantization=7,
                modules_to_fuse=[["backbone.0", "backbone.1"]],
                quantize_on_fit_end=False,
            )
        ]
    ),
    "BackboneFinetuning": Setting(
        lambda folder: [BackboneFinetuning(strategy={1: ["*.bias"], 2: ["*"]}, level_ratio_lr=0.5, train_bn=False)]
    ),
    "ModelCheckpoint": Setting(
        lambda folder: [ModelCheckpoint(folder / "best", "{step}", monitor="val", every_n_train_steps=3)]
    ),
}
"""The same with other arguments."""

AVERAGES = "both leave their average in the module when training ends"
PRUNED = "averages weights that ModelPruning changes: it turns weights into others"
ROUNDED = "the ranges it observes are those of the trained weights"

REFUSED: dict[frozenset[str], str] = {
    frozenset({"StochasticWeightAveraging", "EMAWeightAveraging"}): AVERAGES,
    frozenset({"StochasticWeightAveraging", "ModelPruning"}): PRUNED,
    frozenset({"EMAWeightAveraging", "ModelPruning"}): PRUNED,
    frozenset({"StochasticWeightAveraging", "QuantizationAwareTraining"}): ROUNDED,
    frozenset({"EMAWeightAveraging", "QuantizationAwareTraining"}): ROUNDED,
    frozenset({"GradientAccumulationScheduler", "accumulate_grad_batches"}): "both say how many batches",
}
"""The pairs that cannot work, each with a part of the error; all others do."""

SHORT = {
    "EarlyStopping": "stop", "StochasticWeightAveraging": "SWA", "EMAWeightAveraging": "EMA",
    "GradientAccumulationScheduler": "schedule", "accumulate_grad_batches": "accumulate", "ModelPruning": "prune",
    "QuantizationAwareTraining": "QAT", "BackboneFinetuning": "finetune", "ModelCheckpoint": "save",
}  # fmt: skip

HAS_DONE: dict[str, Callable[[Trainer, Any], bool]] = {
    "EarlyStopping": lambda trainer, module: the(EarlyStopping, trainer).stopped_epoch == 3 < trainer.max_epochs,
    "StochasticWeightAveraging": lambda trainer, module: the(StochasticWeightAveraging, trainer).updates == 3,
    "EMAWeightAveraging": lambda trainer, module: the(EMAWeightAveraging, trainer).updates == trainer.global_step - 3,
    "GradientAccumulationScheduler": lambda trainer, module: trainer.global_step in (5 + 5 + 3 + 3, 5 + 5 + 3 + 1),
    "accumulate_grad_batches": lambda trainer, module: trainer.global_step in (3 + 3 + 3 + 3, 3 + 3 + 3 + 1),
    "ModelPruning": lambda trainer, module: the(ModelPruning, trainer).total_sparsity() > 0.5,
    "QuantizationAwareTraining": lambda trainer, module: module.backbone[0].weight().dtype == torch.qint8,
    "BackboneFinetuning": lambda trainer, module: len(trainer.optimizers[0].param_groups) in (2, 3),
    "ModelCheckpoint": lambda trainer, module: Path(the(ModelCheckpoint, trainer).best_model_path).exists(),
}


def the(kind: type[Any], trainer: Trainer) -> Any:
    return next(one for one in trainer.callbacks if isinstance(one, kind) and one.name != "periodic")


def table_of_pairs() -> str:
    """Return the table of the page about callbacks: a number is that of the reason below it."""
    reasons = list(dict.fromkeys(REFUSED.values()))

    def cell(row: str, column: str) -> str:
        reason = REFUSED.get(frozenset({row, column}))
        return "" if row == column else "✓" if reason is None else f"no ({reasons.index(reason) + 1})"

    lines = [["", *(SHORT[column] for column in SETTINGS)], ["---"] * (len(SETTINGS) + 1)]
    lines += [[f"`{row}`", *(cell(row, column) for column in SETTINGS)] for row in SETTINGS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_page_about_callbacks_has_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "callbacks.md"
    assert table_of_pairs() in page.read_text(encoding="utf-8"), table_of_pairs()


# The run that is gone on with had gone further than the checkpoint, to a better one.
GONE = pytest.mark.filterwarnings("ignore:ModelCheckpoint. checkpoints of the earlier run are gone")


@GONE
@pytest.mark.parametrize("pair", list(itertools.combinations(SETTINGS, 2)), ids=" ".join)
def test_each_two(pair: tuple[str, str], tmp_path: Path, named_differences: Differences) -> None:
    one, other = (SETTINGS[name] for name in pair)
    if reason := REFUSED.get(frozenset(pair)):
        for both in (one.beside(other), other.beside(one)):
            with pytest.raises(MisconfigurationException, match=reason):
                Trainer(callbacks=both.callbacks(tmp_path), **both.arguments)
        return
    trainer, module = check([one, other], tmp_path, named_differences)
    assert [HAS_DONE[name](trainer, module) for name in pair] == [True, True]


def groups() -> list[tuple[str, ...]]:
    """Return the sets to which no other can be added that works beside each of them."""
    working = [
        group
        for size in range(len(SETTINGS), 0, -1)
        for group in itertools.combinations(SETTINGS, size)
        if not any(pair <= {*group} for pair in REFUSED)
    ]
    return [group for group in working if not any({*group} < {*other} for other in working)]


@GONE
@pytest.mark.parametrize("group", groups(), ids=" ".join)
def test_as_many_as_work_beside_each_other(
    group: tuple[str, ...], tmp_path: Path, named_differences: Differences
) -> None:
    trainer, module = check([SETTINGS[name] for name in group], tmp_path, named_differences)
    assert [name for name in group if not HAS_DONE[name](trainer, module)] == []
    shutil.rmtree(tmp_path)
    check([OTHERWISE.get(name, SETTINGS[name]) for name in group], tmp_path, named_differences)


@pytest.mark.parametrize("group", groups(), ids=" ".join)
def test_as_many_after_the_end(group: tuple[str, ...], tmp_path: Path, named_differences: Differences) -> None:
    """An exception when training is over, and a limit that is raised then: what was made final is not yet for these."""
    both = functools.reduce(Setting.beside, [SETTINGS[name] for name in group])
    whole = train(tmp_path / "run", both, OnExceptionCheckpoint(tmp_path))[2]
    for hook in ("on_train_end", "on_fit_end"):
        shutil.rmtree(tmp_path / "run")
        saver = OnExceptionCheckpoint(tmp_path)
        with pytest.raises(Cut):
            train(tmp_path / "run", both, saver, LambdaCallback(**{hook: cut}))
        resumed = train(tmp_path / "run", both, saver, seed=50, ckpt_path=saver.ckpt_path)[2]
        assert not list(named_differences(resumed, whole)), hook
    shutil.rmtree(tmp_path / "run")
    shorter = Setting(both.callbacks, {**both.arguments, "max_epochs": 3})
    train(tmp_path / "run", shorter)[0].save_checkpoint(tmp_path / "shorter.ckpt")
    longer = train(tmp_path / "run", both, seed=50, ckpt_path=tmp_path / "shorter.ckpt")[2]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert not list(named_differences(longer["end"][part], whole["end"][part])), part
    assert torch.equal(longer["output"], whole["output"])


def cut(*_: Any) -> None:
    raise Cut


def check(settings: Sequence[Setting], folder: Path, named_differences: Differences) -> tuple[Trainer, Any]:
    """Compare a run with all of these with those that go on after a cut, and with one in the other order."""
    runs = ends(folder, functools.reduce(Setting.beside, settings))
    _, trainer, module, whole = next(runs)
    for how, _, _, resumed in runs:
        assert not list(named_differences(resumed, whole)), how
    shutil.rmtree(folder / "run")
    swapped = train(folder / "run", functools.reduce(Setting.beside, reversed(settings)))[2]
    assert not list(named_differences(whatever_the_order(swapped), whatever_the_order(whole))), "in the other order"
    return trainer, module


def whatever_the_order(run: dict[str, Any]) -> dict[str, Any]:
    """Leave out in which order callbacks stand in a checkpoint."""
    end = run["end"]
    states = sorted((key, state) for key, state in end["callbacks"].items() if "periodic" not in key)
    return {**run, "end": [end["state_dict"], end["optimizer_states"], end["lr_schedulers"], states]}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("EarlyStopping", "Set the `name` of one"),
        ("StochasticWeightAveraging", AVERAGES),
        ("EMAWeightAveraging", AVERAGES),
        ("GradientAccumulationScheduler", "put what they say into one scheduling"),
        ("ModelPruning", "Set the `name` of one"),
        ("QuantizationAwareTraining", "give one of them"),
        ("BackboneFinetuning", "Set the `name` of one"),
        ("ModelCheckpoint", "Set the `name` of one"),
    ],
)
def test_the_same_twice(kind: str, reason: str, tmp_path: Path) -> None:
    twice = SETTINGS[kind].beside(SETTINGS[kind])
    with pytest.raises(MisconfigurationException, match=reason):
        Trainer(callbacks=twice.callbacks(tmp_path), **twice.arguments)
