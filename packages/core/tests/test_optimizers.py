"""Every form of ``configure_optimizers``, and what is said of those that are none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, SequentialLR, StepLR

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.optimizers import LRSchedulerConfig, read_optimizers


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.fixture
def one() -> Optimizer:
    return SGD(parameters(), lr=0.1)


@pytest.fixture
def two() -> Optimizer:
    return Adam(parameters())


class Warmup:
    """A scheduler of one's own; no more than three methods."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# -- forms without schedulers -------------------------------------------------------------------------------------


def test_optimizers_alone(one: Optimizer, two: Optimizer) -> None:
    assert read_optimizers(None) == ([], [])
    assert read_optimizers([]) == ([], [])
    assert read_optimizers(one) == ([one], [])
    assert read_optimizers([one, two]) == ([one, two], [])
    assert read_optimizers((one, two)) == ([one, two], [])
    assert read_optimizers({"optimizer": one}) == ([one], [])
    assert read_optimizers({"optimizer": one, "lr_scheduler": None}) == ([one], [])
    assert read_optimizers([{"optimizer": one}, {"optimizer": two}]) == ([one, two], [])
    assert read_optimizers(([one, two], [])) == ([one, two], [])
    assert read_optimizers(([], [])) == ([], [])


# -- forms with schedulers ----------------------------------------------------------------------------------------


def test_a_pair_of_lists(one: Optimizer) -> None:
    scheduler, warmup = StepLR(one, 1), Warmup()
    returned = [one], [scheduler, {"scheduler": warmup, "interval": "step", "frequency": 3, "name": "warm"}]
    optimizers, configs = read_optimizers(returned)
    assert optimizers == [one]
    assert configs == [
        LRSchedulerConfig(scheduler, interval="epoch", frequency=1, strict=True),
        LRSchedulerConfig(warmup, name="warm", interval="step", frequency=3),
    ]


def test_a_single_scheduler_beside_a_list_of_optimizers(one: Optimizer) -> None:
    scheduler = StepLR(one, 1)
    assert read_optimizers(([one], scheduler)) == ([one], [LRSchedulerConfig(scheduler)])
    assert read_optimizers([[one], [scheduler]]) == ([one], [LRSchedulerConfig(scheduler)])
    given = {"scheduler": scheduler, "interval": "step"}
    assert read_optimizers(([one], given)) == ([one], [LRSchedulerConfig(scheduler, interval="step")])


def test_a_dict_with_a_scheduler_or_its_settings(one: Optimizer) -> None:
    scheduler = StepLR(one, 1)
    bare = read_optimizers({"optimizer": one, "lr_scheduler": scheduler})
    assert bare == ([one], [LRSchedulerConfig(scheduler)])
    settings = {"scheduler": scheduler, "interval": "step", "frequency": 2, "strict": False, "name": "rate"}
    _, [config] = read_optimizers({"optimizer": one, "lr_scheduler": settings})
    assert config == LRSchedulerConfig(scheduler, name="rate", interval="step", frequency=2, strict=False)


def test_several_dicts_keep_their_order(one: Optimizer, two: Optimizer) -> None:
    first, second = StepLR(one, 1), StepLR(two, 1)
    dicts = [{"optimizer": one, "lr_scheduler": first}, {"optimizer": two, "lr_scheduler": {"scheduler": second}}]
    for returned in (dicts, tuple(dicts)):
        assert read_optimizers(returned) == ([one, two], [LRSchedulerConfig(first), LRSchedulerConfig(second)])


def test_the_monitor_may_stand_in_either_dict(one: Optimizer) -> None:
    scheduler = ReduceLROnPlateau(one)
    expected = [LRSchedulerConfig(scheduler, reduce_on_plateau=True, monitor="loss")]
    inner = {"scheduler": scheduler, "monitor": "loss"}
    assert read_optimizers({"optimizer": one, "lr_scheduler": scheduler, "monitor": "loss"})[1] == expected
    assert read_optimizers({"optimizer": one, "lr_scheduler": inner})[1] == expected
    assert read_optimizers({"optimizer": one, "lr_scheduler": inner, "monitor": "other"})[1] == expected


def test_a_scheduler_of_ones_own_may_wait_for_a_metric(one: Optimizer) -> None:
    given = {"scheduler": Warmup(), "reduce_on_plateau": True, "monitor": "loss"}
    _, [config] = read_optimizers({"optimizer": one, "lr_scheduler": given})
    assert (config.reduce_on_plateau, config.monitor) == (True, "loss")


def test_schedulers_of_schedulers_belong_to_their_optimizer(one: Optimizer) -> None:
    chain = SequentialLR(one, [LambdaLR(one, lambda epoch: 1.0), StepLR(one, 1)], milestones=[2])
    assert read_optimizers(([one], [chain]))[1] == [LRSchedulerConfig(chain)]


# -- nonsense -----------------------------------------------------------------------------------------------------

SGD_ = SGD(parameters(), lr=0.1)
OTHER = SGD(parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (1, r"it returned 1 \(int\)"),
        ("sgd", r"it returned 'sgd' \(str\)"),
        (SGD, r"it returned <class 'torch\.optim\.sgd\.SGD'> \(type\)"),
        ([SGD_, "adam"], r"'adam' \(str\) stands where an optimizer is expected"),
        ([None], r"None \(NoneType\) stands where an optimizer is expected"),
        (StepLR(SGD_, 1), r"it returned the scheduler StepLR without its optimizer"),
        ((SGD_, StepLR(SGD_, 1)), r"the scheduler StepLR stands among the optimizers; return \(\[optimizer\], \[sched"),
        ({}, r"a dict without the key 'optimizer' \(it has \[\]\)"),
        ({"lr_scheduler": StepLR(SGD_, 1)}, r"a dict without the key 'optimizer' \(it has \['lr_scheduler'\]\)"),
        ({"optimizer": SGD_, "lr_schedulers": None}, r"the key 'lr_schedulers'\. Did you mean 'lr_scheduler'\?"),
        ({"optimizer": SGD_, "frequency": 2}, r"the key 'frequency' beside .*automatic_optimization = False"),
        ({"optimizer": "sgd"}, r"'sgd' \(str\) stands where an optimizer"),
        (([SGD_], ["step"]), r"the scheduler 'step' \(str\) has no step, state_dict and load_state_dict"),
        (([SGD_], [StepLR(OTHER, 1)]), r"the scheduler StepLR belongs to an optimizer that was not returned"),
        (([SGD_], [{"interval": "step"}]), r"lacks the key 'scheduler' \(it has \['interval'\]\)"),
        (([SGD_], [{"scheduler": Warmup(), "interval": "batch"}]), r"interval is 'batch'; expected 'epoch' or 'step'"),
        (([SGD_], [{"scheduler": Warmup(), "frequency": 0}]), r"frequency is 0; expected an int >= 1"),
        (([SGD_], [{"scheduler": Warmup(), "frequency": 1.5}]), r"frequency is 1\.5; expected an int >= 1"),
        (([SGD_], [{"scheduler": Warmup(), "frequency": True}]), r"frequency is True; expected an int >= 1"),
        (([SGD_], [ReduceLROnPlateau(SGD_)]), r"ReduceLROnPlateau needs a metric to look at"),
    ],
)
def test_nonsense_is_named(returned: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"configure_optimizers: .*{message}") as caught:
        read_optimizers(returned)
    assert "Expected an Optimizer; a list of them;" in str(caught.value)


def test_keys_that_a_scheduler_s_dict_does_not_know_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"the key 'intervall', which is left out; .*\. Did you mean 'interval'\?"):
        _, [config] = read_optimizers(([SGD_], [{"scheduler": Warmup(), "intervall": "step"}]))
    assert config.interval == "epoch"


@pytest.mark.parametrize("returned", [{"optimizer": SGD_, "lr_schedulers": None}, ["adam"], 3])
def test_messages_name_the_class_and_end_sentences_once(returned: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"^Net\.configure_optimizers: ") as caught:
        read_optimizers(returned, "Net")
    assert not re.search(r"[.?]\.", str(caught.value))


def test_nonsense_is_found_before_the_first_batch() -> None:
    class Wrong(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("no batch may be run")

        def configure_optimizers(self) -> Any:
            return "adam"

    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    with pytest.raises(MisconfigurationException, match="it returned 'adam'"):
        trainer.fit(Wrong(), [torch.ones(1)])
