"""ModelPruning against loops written by hand with torch.nn.utils.prune, and what it does to the model and optimizer."""

from __future__ import annotations

import copy
import gc
import logging
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import LambdaCallback, ModelPruning
from leyden.runtime.strategy import SingleDeviceStrategy
from leyden.state.checkpoint import dump

DATA = torch.linspace(-1, 1, 24 * 4).sin().view(24, 4)


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.net, batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", loss_of(self.net, batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    output: Tensor = net(batch)
    return (output - batch[:, :2].cos()).square().mean()


def loader() -> Any:
    return DataLoader(DATA, batch_size=8)  # type: ignore[arg-type]  # a tensor is a dataset


def fit(
    module: LightningModule, *callbacks: Callback, max_epochs: int = 3, val: bool = False, **trainer: Any
) -> Trainer:
    made = Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": max_epochs,
            "logger": False,
            "discover_callbacks": False,
            "num_sanity_val_steps": 0,
            "callbacks": list(callbacks),
            **trainer,
        }
    )
    made.fit(module, loader(), loader() if val else None)
    return made


def seeded() -> Callback:
    """Random methods draw the same as in the loop by hand."""
    return LambdaCallback(on_train_epoch_end=lambda trainer, pl_module: torch.manual_seed(trainer.current_epoch))


def by_hand(prune_once: Callable[[nn.Module, int], None], epochs: int = 3) -> Any:
    """Train `Net` by a plain loop that prunes with torch's own functions after each epoch."""
    net = Net().net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)
    for epoch in range(epochs):
        for batch in loader():
            optimizer.zero_grad()
            loss_of(net, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            net.eval()(DATA)  # torch computes `weight` when a layer is called: it would prune by that of the last batch
            net.train()
        torch.manual_seed(epoch)
        prune_once(net, epoch)
    for one in net:
        for name in ("weight", "bias"):
            if hasattr(one, f"{name}_orig"):
                prune.remove(one, name)  # type: ignore[no-untyped-call]
    return net


def everything(net: Any, whole: bool = False) -> list[tuple[Any, str]]:
    """The weights in the order in which ModelPruning takes them."""
    return [
        (one, name)
        for name in ("weight", "bias")
        for one in net
        if isinstance(getattr(one, name, None), Tensor) and (not whole or getattr(one, name).dim() > 1)
    ]


class EveryOther(prune.BasePruningMethod):
    """Prunes each second weight that is left."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


class Rows(prune.BasePruningMethod):
    """Prunes the first slices of those that are left."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = 0) -> None:
        self.amount, self.dim = amount, dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.narrow(self.dim, 0, round(self.amount * t.shape[self.dim])).zero_()
        return mask


def each(function: Any, whole: bool = False, **arguments: Any) -> Callable[[nn.Module, int], None]:
    def prune_once(net: nn.Module, epoch: int) -> None:
        for one, name in everything(net, whole):
            function(one, name, **arguments)

    return prune_once


def together(method: Any, amount: Any) -> Callable[[nn.Module, int], None]:
    def prune_once(net: nn.Module, epoch: int) -> None:
        prune.global_unstructured(everything(net), method, amount=amount(epoch) if callable(amount) else amount)

    return prune_once


def half(epoch: int) -> float:
    return [0.5, 0.0, 0.25][epoch]


def together_without_amount(net: nn.Module, epoch: int) -> None:
    prune.global_unstructured(everything(net), EveryOther)


def half_of_each(net: nn.Module, epoch: int) -> None:
    for one, name in everything(net):
        prune.l1_unstructured(one, name, amount=half(epoch))  # type: ignore[no-untyped-call]


CASES: dict[str, tuple[dict[str, Any], Callable[[nn.Module, int], None]]] = {
    "l1, together": ({"pruning_fn": "l1_unstructured"}, together(prune.L1Unstructured, 0.5)),
    "l1 by class": ({"pruning_fn": prune.L1Unstructured}, together(prune.L1Unstructured, 0.5)),
    "l1, a count": ({"pruning_fn": "l1_unstructured", "amount": 7}, together(prune.L1Unstructured, 7)),
    "l1, a function": ({"pruning_fn": "l1_unstructured", "amount": half}, together(prune.L1Unstructured, half)),
    "l1, each": (
        {"pruning_fn": "l1_unstructured", "use_global_unstructured": False},
        each(prune.l1_unstructured, amount=0.5),
    ),
    "l1, each, a function": (
        {"pruning_fn": "L1_Unstructured", "use_global_unstructured": False, "amount": half},
        half_of_each,
    ),
    "random, together": ({"pruning_fn": "random_unstructured"}, together(prune.RandomUnstructured, 0.5)),
    "random, each by class": (
        {"pruning_fn": prune.RandomUnstructured, "use_global_unstructured": False, "amount": 0.3},
        each(prune.random_unstructured, amount=0.3),
    ),
    "ln": (
        {
            "pruning_fn": "ln_structured", "use_global_unstructured": False, "amount": 0.4, "pruning_dim": 0,
            "pruning_norm": 2,
        },
        each(prune.ln_structured, whole=True, amount=0.4, n=2, dim=0),
    ),
    "ln by class, a count": (
        {
            "pruning_fn": prune.LnStructured, "use_global_unstructured": False, "amount": 1, "pruning_dim": 1,
            "pruning_norm": float("inf"),
        },
        each(prune.ln_structured, whole=True, amount=1, n=float("inf"), dim=1),
    ),
    "random_structured": (
        {"pruning_fn": "random_structured", "use_global_unstructured": False, "amount": 0.4, "pruning_dim": -1},
        each(prune.random_structured, whole=True, amount=0.4, dim=-1),
    ),
    "random_structured by class": (
        {"pruning_fn": prune.RandomStructured, "use_global_unstructured": False, "amount": 0.4, "pruning_dim": 0},
        each(prune.random_structured, whole=True, amount=0.4, dim=0),
    ),
    "identity, each": ({"pruning_fn": "identity", "use_global_unstructured": False}, each(prune.identity)),
    "identity by class": ({"pruning_fn": prune.Identity}, each(prune.identity)),
    "a custom one, each": (
        {"pruning_fn": EveryOther, "use_global_unstructured": False},
        each(EveryOther.apply),
    ),
    "a custom one, together": ({"pruning_fn": EveryOther}, together_without_amount),
    "a custom structured one": (
        {"pruning_fn": Rows, "use_global_unstructured": False, "amount": 0.3},
        each(Rows.apply, whole=True, amount=0.3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_a_loop_by_hand(case: str) -> None:
    arguments, prune_once = CASES[case]
    module = Net()
    fit(module, seeded(), ModelPruning(**arguments, use_lottery_ticket_hypothesis=False))
    expected = by_hand(prune_once).state_dict()
    assert list(module.net.state_dict()) == list(Net().net.state_dict())
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("asked", [True, [1, 2]])
def test_the_weights_that_are_left_return_to_their_initial_values(asked: Any) -> None:
    module, seen = Net(), []
    initial = copy.deepcopy(module.net.state_dict())

    def look(trainer: Trainer, pl_module: Any) -> None:
        layers = [pl_module.net[0], pl_module.net[3]]
        seen.append([(one.weight.detach().clone(), one.weight_mask.clone(), one.weight_orig.clone()) for one in layers])

    pruning = ModelPruning(
        "l1_unstructured",
        parameter_names=["weight"],
        amount=0.25,
        use_lottery_ticket_hypothesis=asked if asked is True else lambda epoch: epoch in asked,
    )
    fit(module, pruning, LambdaCallback(on_train_epoch_end=look))
    assert len(seen) == 3
    for epoch, layers in enumerate(seen):
        for (weight, mask, original), name in zip(layers, ("0.weight", "3.weight"), strict=True):
            returned = asked is True or epoch in asked
            assert torch.equal(weight, initial[name] * mask) == returned
            assert torch.equal(original, initial[name]) == returned
    assert torch.equal(module.net[3].weight, initial["3.weight"] * seen[-1][1][1])
    assert not torch.equal(module.net[3].bias, initial["3.bias"])  # which is not pruned, and goes on being trained


def test_parameters_resampled_are_those_that_reset_parameters_draws() -> None:
    module = Net()
    pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], resample_parameters=True)
    fit(module, seeded(), pruning, max_epochs=2)
    expected = Net()
    torch.manual_seed(1)
    drawn = []
    for index in (0, 1, 3):
        expected.net[index].reset_parameters()
        drawn.append(expected.net[index].weight)
    assert module.net[1].running_mean.count_nonzero()  # resampling a layer leaves its statistics
    for index, weight in zip((0, 1, 3), drawn, strict=True):
        now = module.net[index].weight
        assert torch.equal(now, weight * (now != 0))


def test_what_has_no_reset_parameters_returns_to_its_initial_values() -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net.append(Scale())

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.5, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    module = Scaled()
    fit(module, ModelPruning("identity", parameter_names=["weight"], resample_parameters=True), max_epochs=1)
    assert module.net[4].weight.tolist() == [0.5, 2.0]


def test_functions_are_asked_of_each_epoch() -> None:
    asked: dict[str, list[int]] = {"prune": [], "amount": [], "lottery": [], "permanent": []}

    def note(name: str, answer: Any) -> Callable[[int], Any]:
        def ask(epoch: int) -> Any:
            asked[name].append(epoch)
            return answer(epoch)

        return ask

    module = Net()
    pruning = ModelPruning(
        "l1_unstructured",
        amount=note("amount", lambda epoch: 2 + epoch),
        apply_pruning=note("prune", lambda epoch: epoch != 1),
        use_lottery_ticket_hypothesis=note("lottery", lambda epoch: False),
        make_pruning_permanent=note("permanent", lambda epoch: epoch == 3),
    )
    fit(module, pruning, max_epochs=4)
    assert asked == {"prune": [0, 1, 2, 3], "amount": [0, 2, 3], "lottery": [0, 2, 3], "permanent": [3]}
    assert sum(one.pruned for one in pruning.sparsity()) == 2 + 4 + 5
    assert not prune.is_pruned(module)


def test_without_permanence_masks_stay_and_a_second_fit_keeps_them() -> None:
    module = Net()
    pruning = ModelPruning("l1_unstructured", make_pruning_permanent=False, use_lottery_ticket_hypothesis=False)
    trainer = fit(module, pruning, max_epochs=1)
    assert prune.is_pruned(module)
    mask = module.net[0].weight_mask.clone()
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert bool((module.net[0].weight_mask <= mask).all())
    assert pruning.total_sparsity() == pytest.approx(0.75, abs=0.02)
    pruning.make_pruning_permanent(module)
    assert not prune.is_pruned(module)
    assert module.net[0].weight[mask == 0].count_nonzero() == 0


def test_a_second_fit_of_a_model_whose_pruning_is_permanent_starts_without_masks() -> None:
    module, pruning = Net(), ModelPruning("l1_unstructured", use_lottery_ticket_hypothesis=False)
    trainer = fit(module, pruning, max_epochs=2)
    assert pruning.total_sparsity() == pytest.approx(0.75, abs=0.02)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert pruning.total_sparsity() == pytest.approx(0.5, abs=0.02)
    again = Trainer(max_epochs=1, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[pruning])
    again.fit(Net(), loader())
    assert pruning.total_sparsity() == pytest.approx(0.5, abs=0.02)


def test_the_optimizer_holds_what_is_trained_and_parameters_keep_their_order() -> None:
    seen: list[list[str]] = []

    def look(trainer: Trainer, pl_module: Any) -> None:
        names = [name for name, _ in pl_module.named_parameters()]
        held = [one for group in trainer.optimizers[0].param_groups for one in group["params"]]
        assert [id(one) for one in held] == [id(one) for one in pl_module.parameters()]
        assert all(len(trainer.optimizers[0].state[one]) == 3 for one in held)
        seen.append(names)

    module = Net()
    before = [id(parameter) for parameter in module.parameters()]
    fit(module, ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_end=look), max_epochs=2)
    names = [name for name, _ in Net().named_parameters()]
    assert seen == [[f"{name}_orig" for name in names]] * 2
    assert [name for name, _ in module.named_parameters()] == names
    assert [id(parameter) for parameter in module.parameters()] == before


def test_a_hundred_prunings_leave_one_hook_and_no_more_tensors() -> None:
    counts: list[tuple[int, int, int]] = []
    alive: list[int] = []

    def look(trainer: Trainer, pl_module: Any) -> None:
        hooks = [hook for one in pl_module.modules() for hook in one._forward_pre_hooks.values()]
        containers = sum(isinstance(hook, prune.PruningContainer) for hook in hooks)
        tensors = sum(isinstance(value, Tensor) for hook in hooks for value in vars(hook).values())
        held = sum(len(values) for values in pruning.state_dict().values())
        counts.append((len(hooks), containers + tensors, held + len(pl_module.state_dict())))
        if trainer.current_epoch % 20 == 19:  # it takes a look at every object there is
            gc.collect()
            alive.append(sum(issubclass(type(one), Tensor) for one in gc.get_objects()))

    pruning = ModelPruning("l1_unstructured", amount=0.02)
    fit(Net(), pruning, LambdaCallback(on_train_epoch_end=look), max_epochs=100)
    assert len(counts) == 100
    assert set(counts) == {(6, 0, 3 * 6 + 2 * 6 + 3)}
    assert len(alive) == 5
    assert len(set(alive)) == 1
    assert pruning.total_sparsity() > 0.5
    assert not [name for name in vars(type(pruning)) if "batch" in name]  # and a step has no hook of it


def test_shared_weights_have_one_mask_and_count_once() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
            self.net[1].weight = self.net[0].weight

    for pairs in ((), [("net.1", "weight")]):
        module = Tied()
        pruning = ModelPruning("l1_unstructured", pairs, ["weight"], amount=0.5)
        fit(module, pruning, max_epochs=1)
        assert module.net[1].weight is module.net[0].weight
        assert [one.name for one in pruning.sparsity()] == ["net.0.weight", "net.2.weight"][: 1 if pairs else 2]
        assert pruning.total_sparsity() == 0.5
    seen: list[bool] = []

    def look(trainer: Trainer, pl_module: Any) -> None:
        first, second = pl_module.net[0], pl_module.net[1]
        seen.append(first.weight_mask is second.weight_mask and first.weight_orig is second.weight_orig)
        seen.append(torch.equal(first.weight, second.weight))

    fit(Tied(), ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_end=look), max_epochs=2)
    assert seen == [True] * 4


def test_attention_uses_its_last_layer_without_calling_it_and_trains_it_all_the_same() -> None:
    class Attentive(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            x = batch.unsqueeze(1)
            return loss_of(self.net, self.attention(x, x, x)[0].squeeze(1))

    module, seen = Attentive(), []

    def look(trainer: Trainer, pl_module: Any) -> None:
        layer = pl_module.attention.out_proj
        seen.append((layer.weight_orig.detach().clone(), layer.weight_orig.grad))

    names = ["in_proj_weight", "weight"]
    pruning = ModelPruning("l1_unstructured", parameter_names=names, amount=0.25, use_lottery_ticket_hypothesis=False)
    fit(module, pruning, LambdaCallback(on_train_epoch_end=look), max_epochs=3)
    assert all(gradient is not None for _, gradient in seen)
    assert not torch.equal(seen[1][0], seen[2][0])
    assert not [hook for one in module.modules() for hook in one._forward_pre_hooks.values()]


def test_the_model_can_be_copied_at_the_border_of_an_epoch() -> None:
    copies: list[nn.Module] = []

    def copy_it(trainer: Trainer, pl_module: Any) -> None:
        copies.append(copy.deepcopy(pl_module.net))

    fit(Net(), ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_start=copy_it))
    assert [prune.is_pruned(one) for one in copies] == [False, True, True]


def test_pruning_after_validation() -> None:
    events: list[str] = []

    def note(event: str) -> Callable[..., None]:
        def look(trainer: Trainer, pl_module: Any) -> None:
            pruned = sum(int((mask == 0).sum()) for name, mask in pl_module.named_buffers() if name.endswith("_mask"))
            events.append(f"{event} {pruned}")

        return look

    watching = LambdaCallback(
        on_validation_start=note("validation"), on_validation_end=note("validated"), on_train_epoch_end=note("epoch")
    )
    pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=3, prune_on_train_epoch_end=False)
    trainer = fit(Net(), pruning, watching, max_epochs=2, val=True, val_check_interval=2, num_sanity_val_steps=1)
    assert events == [
        "validation 0", "validated 0",  # the sanity check
        "validation 0", "validated 3", "epoch 3", "validation 3", "validated 6", "epoch 6",
    ]  # fmt: skip
    trainer.validate(dataloaders=loader(), verbose=False)
    assert sum(one.pruned for one in pruning.sparsity()) == 6


@pytest.mark.parametrize("without", [{"val": False}, {"val": True, "limit_val_batches": 0}])
def test_pruning_after_validation_needs_one(without: dict[str, Any]) -> None:
    pruning = ModelPruning("l1_unstructured", prune_on_train_epoch_end=False)
    with pytest.raises(MisconfigurationException, match="prunes after each validation, and this fit has none: give"):
        fit(Net(), pruning, **without)


def test_parameters_given_by_layer_and_by_name() -> None:
    module = Net()
    given = ModelPruning("l1_unstructured", [(module.net[0], "weight"), ("net.3", "bias")], amount=2)
    fit(module, given, max_epochs=1)
    assert [(one.name, one.layer, one.weights) for one in given.sparsity()] == [
        ("net.0.weight", "Linear", 24),
        ("net.3.bias", "Linear", 2),
    ]
    module = Net()
    pairs = ModelPruning.sanitize_parameters_to_prune(module, (), ["bias"])
    assert pairs == [(module.net[0], "bias"), (module.net[1], "bias"), (module.net[3], "bias")]


def test_a_subclass_leaves_layers_out() -> None:
    class NoNorm(ModelPruning):
        def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
            return [pair for pair in parameters_to_prune if not isinstance(pair[0], nn.BatchNorm1d)]

    pruning = NoNorm("l1_unstructured")
    fit(Net(), pruning, max_epochs=1)
    assert [one.name for one in pruning.sparsity()] == ["net.0.weight", "net.3.weight", "net.0.bias", "net.3.bias"]


def test_layers_made_in_configure_model_are_pruned() -> None:
    class Late(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = None

        def configure_model(self) -> None:
            if self.net is None:
                self.net = nn.Sequential(nn.Linear(4, 2))

    pruning = ModelPruning("l1_unstructured", parameters_to_prune=[("net.0", "weight")])
    fit(Late(), pruning, max_epochs=1)
    assert pruning.total_sparsity() == 0.5


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_what_is_reported(verbose: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "leyden")
    pruning = ModelPruning(
        "l1_unstructured",
        parameter_names=["weight"],
        use_global_unstructured=False,
        use_lottery_ticket_hypothesis=False,
        verbose=verbose,
    )
    fit(Net(), pruning, max_epochs=2)
    told = [record.getMessage() for record in caplog.records if "ModelPruning" in record.getMessage()]
    first = "ModelPruning: l1_unstructured with amount=0.5 in epoch 0: 0 -> 21 of 42 weights pruned (50.00 %)"
    second = "ModelPruning: l1_unstructured with amount=0.5 in epoch 1: 21 -> 32 of 42 weights pruned (76.19 %)"
    table = """
┌──────────────┬─────────────┬─────────┬────────┬────────┬──────────┐
│ parameter    │ layer       │ weights │ before │ pruned │ sparsity │
├──────────────┼─────────────┼─────────┼────────┼────────┼──────────┤
│ net.0.weight │ Linear      │      24 │     12 │     18 │  75.00 % │
│ net.1.weight │ BatchNorm1d │       6 │      3 │      5 │  83.33 % │
│ net.3.weight │ Linear      │      12 │      6 │      9 │  75.00 % │
│ all          │             │      42 │     21 │     32 │  76.19 % │
└──────────────┴─────────────┴─────────┴────────┴────────┴──────────┘"""
    if verbose < 2:
        assert told == [first, second][: 2 * verbose]
    else:
        assert [one.splitlines()[0] for one in told] == [first, second]
        assert told[1] == second + table


@pytest.mark.parametrize(("prunings", "told"), [(2, True), (1, False)])
def test_a_training_that_ends_with_initial_values_says_so(
    prunings: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leyden")
    fit(Net(), ModelPruning("l1_unstructured", apply_pruning=lambda epoch: epoch < prunings), max_epochs=2)
    assert ("they are not trained. Let epochs follow the last pruning" in caplog.text) is told


def test_with_manual_optimisation_two_optimizers_and_accumulation() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[index].parameters(), lr=0.1, momentum=0.9) for index in (0, 3)]

        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            self.manual_backward(loss_of(self.net, batch))
            if batch_idx % 2:
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()

    module, pruning = Two(), ModelPruning("l1_unstructured", use_lottery_ticket_hypothesis=False, amount=0.3)
    fit(module, pruning)
    net = Net().net
    optimizers = [torch.optim.SGD(net[index].parameters(), lr=0.1, momentum=0.9) for index in (0, 3)]
    for _ in range(3):
        for index, batch in enumerate(loader()):
            loss_of(net, batch).backward()  # type: ignore[no-untyped-call]
            if index % 2:
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        with torch.no_grad():
            for one in net:  # what torch does when a layer is called
                for hook in one._forward_pre_hooks.values():
                    hook(one, None)
        prune.global_unstructured(everything(net), prune.L1Unstructured, amount=0.3)
    for one, name in everything(net):
        prune.remove(one, name)  # type: ignore[no-untyped-call]
    for name, value in net.state_dict().items():
        assert torch.equal(module.net.state_dict()[name], value), name

    plain = Net()
    fit(plain, ModelPruning("l1_unstructured"), accumulate_grad_batches=2, precision="bf16-mixed")
    assert not prune.is_pruned(plain)


def test_an_exception_leaves_a_plain_module() -> None:
    def fail(trainer: Trainer, pl_module: Any) -> None:
        assert prune.is_pruned(pl_module) == bool(trainer.current_epoch)
        if trainer.current_epoch == 2:
            raise RuntimeError("cut")

    module = Net()
    with pytest.raises(RuntimeError, match="cut"):
        fit(module, ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_start=fail))
    assert not prune.is_pruned(module)
    assert list(module.state_dict()) == list(Net().state_dict())


def test_fast_dev_run_validate_and_test_alone() -> None:
    module, pruning = Net(), ModelPruning("l1_unstructured")
    trainer = fit(module, pruning, fast_dev_run=True, val=True)
    assert pruning.total_sparsity() == pytest.approx(0.5, abs=0.02)
    before = copy.deepcopy(module.state_dict())
    trainer.validate(module, loader(), verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pruning_fn": "l1_unstructred"}, r"expected one of 'l1_unstructured'.* Did you mean 'l1_unstructured'\?"),
    ({"pruning_fn": nn.Linear}, "expected a name or a subclass of torch.nn.utils.prune.BasePruningMethod"),
    ({"pruning_fn": EveryOther()}, "the class, not an instance"),
    ({"pruning_fn": prune.l1_unstructured}, r"Give the name of this function, 'l1_unstructured'"),
    ({"pruning_fn": "ln_structured", "pruning_dim": 0, "pruning_norm": 2}, "Set use_global_unstructured=False"),
    ({"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_norm": 2}, "pruning_dim=None"),
    ({"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_dim": 0}, "pruning_norm=None"),
    ({"pruning_fn": "random_structured", "use_global_unstructured": False}, "pruning_dim=None"),
    ({"pruning_fn": "l1_unstructured", "amount": 1.5}, "amount=1.5: expected a fraction"),
    ({"pruning_fn": "l1_unstructured", "amount": -1}, "amount=-1: expected"),
    ({"pruning_fn": "l1_unstructured", "amount": True}, "amount=True: expected"),
    ({"pruning_fn": "l1_unstructured", "amount": lambda: 0.5}, "or a function of the epoch"),
    ({"pruning_fn": "l1_unstructured", "apply_pruning": lambda: True}, "such as lambda epoch: epoch < 5"),
    ({"pruning_fn": "l1_unstructured", "verbose": 3}, "verbose=3: expected 0, 1 or 2"),
    ({"pruning_fn": "l1_unstructured", "apply_pruning": "yes"}, "apply_pruning='yes': expected True, False or a func"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": "weight"}, r"expected a list of names, such as \['weight'\]"),
    ({"pruning_fn": "l1_unstructured", "parameters_to_prune": ["net.0"]}, "expected a list of pairs"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": 5}, "parameter_names=5: expected a list of names"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": iter(["bias"])}, "expected a list of names"),
    ({"pruning_fn": "l1_unstructured", "pruning_dim": 0.5}, "pruning_dim=0.5: expected an int or None"),
    ({"pruning_fn": "l1_unstructured", "pruning_norm": "max"}, "pruning_norm='max': expected a number, 'fro', 'nuc'"),
    ({"pruning_fn": "l1_unstructured", "pruning_norm": math.nan}, "pruning_norm=nan: expected a number"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        ModelPruning(**arguments)


def test_all_mistakes_are_told_together_and_a_method_that_needs_more_is_refused() -> None:
    class Needs(EveryOther):
        def __init__(self, threshold: float) -> None:
            self.threshold = threshold

    class Untyped(EveryOther):
        PRUNING_TYPE = "sideways"

    with pytest.raises(MisconfigurationException) as caught:
        ModelPruning(Needs, amount=2.0, verbose=7)
    assert [line[:24] for line in str(caught.value).splitlines()[1:]] == [
        "  - pruning_fn=Needs: it",
        "  - amount=2.0: expected",
        "  - verbose=7: expected ",
    ]
    with pytest.raises(MisconfigurationException, match="its PRUNING_TYPE is 'sideways'"):
        ModelPruning(Untyped)
    with pytest.warns(UserWarning, match="does nothing with use_lottery_ticket_hypothesis=False"):
        ModelPruning("identity", use_lottery_ticket_hypothesis=False, resample_parameters=True)
    with pytest.warns(UserWarning, match=r"\(pruning_dim=0\) does nothing with pruning_fn='l1_unstructured'"):
        ModelPruning("l1_unstructured", pruning_dim=0)
    with pytest.warns(UserWarning, match=r"\(pruning_norm=2\) does nothing with pruning_fn='random_structured'"):
        structured(pruning_norm=2)


def structured(**arguments: Any) -> ModelPruning:
    return ModelPruning("random_structured", use_global_unstructured=False, **{"pruning_dim": 1, **arguments})


UNFIT: list[tuple[Callable[[], ModelPruning], str]] = [
    (lambda: ModelPruning("identity", parameter_names=["wieght"]), "no layer of Net has a parameter named 'wieght'"),
    (lambda: ModelPruning("identity", [("net.7", "weight")]), "there is no layer 'net.7'"),
    (lambda: ModelPruning("identity", [("net.0", "wight")]), "it has: weight, bias. Did you mean 'weight'"),
    (lambda: ModelPruning("identity", [(nn.Linear(1, 1), "weight")]), "is no part of this model"),
    (lambda: ModelPruning("l1_unstructured", amount=57), "there are 56 weights in all, fewer than amount=57"),
    (
        lambda: ModelPruning("l1_unstructured", use_global_unstructured=False, amount=3),
        "net.3.bias has 2 weights, fewer than amount=3",
    ),
    (lambda: structured(amount=5), "net.0.weight has 4 slices along pruning_dim=1, fewer than amount=5"),
    (lambda: structured(parameter_names=["bias"]), r"net.0.bias has the shape \(6,\), without slices"),
    (lambda: structured(pruning_dim=2), r"net.0.weight has the shape \(6, 4\), and no dimension 2: give pruning_dim=0"),
    (
        lambda: ModelPruning("ln_structured", None, None, False, pruning_dim=0, pruning_norm="nuc"),
        r"net.0.weight has the shape \(6, 4\), of whose slices torch has no norm 'nuc': give a number, such as 2",
    ),
]


@pytest.mark.parametrize(("make", "message"), UNFIT)
def test_what_does_not_fit_the_model_is_refused_as_fit_starts(make: Callable[[], ModelPruning], message: str) -> None:
    steps: list[int] = []
    noting = LambdaCallback(on_train_batch_start=lambda trainer, pl_module, batch, batch_idx: steps.append(batch_idx))
    with pytest.raises(MisconfigurationException, match=message):
        fit(Net(), make(), noting)
    assert not steps


def test_a_count_that_is_more_than_what_is_left_is_told_and_changes_nothing() -> None:
    module = Net()
    pruning = ModelPruning("l1_unstructured", amount=25)
    with pytest.raises(MisconfigurationException, match=r"amount=25\) cannot prune on after 89.3 % was pruned"):
        fit(module, pruning)
    assert pruning.total_sparsity() == pytest.approx(50 / 56)


def test_a_function_that_returns_no_amount_is_told_with_the_epoch() -> None:
    with pytest.raises(MisconfigurationException, match=r"returned 1.5 for epoch 1"):
        fit(Net(), ModelPruning("l1_unstructured", amount=lambda epoch: 0.5 + epoch))


def test_a_mask_of_another_shape_is_told_with_the_class() -> None:
    class Wrong(EveryOther):
        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return default_mask[:1]

    with pytest.raises(MisconfigurationException, match=r"Wrong.compute_mask returned \(1, 4\)"):
        fit(Net(), ModelPruning(Wrong, use_global_unstructured=False))


def test_two_of_them_and_what_the_user_pruned_before_leave_one_another_alone() -> None:
    module = Net()
    prune.l1_unstructured(module.net[1], "weight", amount=2)  # type: ignore[no-untyped-call]
    first = ModelPruning("l1_unstructured", [("net.0", "weight")])
    second = ModelPruning("l1_unstructured", [("net.3", "weight")], amount=0.25, make_pruning_permanent=False)
    second.name = "second"
    trainer = fit(module, first, second, max_epochs=1)
    assert [one.total_sparsity() for one in (first, second)] == [0.5, 0.25]
    names = ["net.0.weight", "net.0.bias", "net.1.weight_orig", "net.1.bias", "net.3.weight_orig", "net.3.bias"]
    assert sorted(name for name, _ in module.named_parameters()) == sorted(names)
    state = dump(trainer)
    assert [int((~mask).sum()) for mask in state["callbacks"]["ModelPruning"]["masks"].values()] == [12]
    assert {name for name in names if name in state["state_dict"]} == set(names)


def test_a_layer_with_two_names_is_saved_plain_under_both() -> None:
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.net[0]

    saved: list[dict[str, Any]] = []

    def save(trainer: Trainer, pl_module: Any) -> None:
        saved.append(dump(trainer, weights_only=True)["state_dict"])

    fit(Twice(), ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_end=save), max_epochs=1)
    assert list(saved[0]) == list(Twice().state_dict())
    assert torch.equal(saved[0]["again.weight"], saved[0]["net.0.weight"])


def test_every_process_takes_the_masks_and_values_that_the_first_has_drawn() -> None:
    class Second(SingleDeviceStrategy):
        world_size, global_rank = 2, 1

        def broadcast(self, obj: Any, src: int = 0) -> Any:
            if not isinstance(obj, list) or not obj or not isinstance(obj[0], Tensor):
                return obj
            sent.append(len(obj))
            return [torch.full_like(one, [0, 3][len(sent) % 2 == 0]) if one.dim() == 1 else one for one in obj]

    sent: list[int] = []
    module = Net()
    pruning = ModelPruning(
        "random_unstructured", use_global_unstructured=False, parameter_names=["bias"], resample_parameters=True
    )
    masks: list[Any] = []
    look = LambdaCallback(
        on_train_epoch_end=lambda trainer, pl_module: masks.append(
            (pl_module.net[0].bias_mask.tolist(), pl_module.net[0].bias_orig.tolist())
        )
    )
    fit(module, pruning, look, max_epochs=1, strategy=Second(torch.device("cpu")))
    assert sent == [3, 3]
    assert masks == [([0] * 6, [3] * 6)]


def test_a_structured_class_that_does_not_say_its_dimension_is_told_at_the_first_pruning() -> None:
    class Vague(EveryOther):
        PRUNING_TYPE = "structured"

    class Clear(Vague):
        dim = 1

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask[:, 0] = 0
            return mask

    with pytest.raises(MisconfigurationException, match="Vague is structured, but has no `dim`"):
        fit(Net(), ModelPruning(Vague, use_global_unstructured=False))
    pruning = ModelPruning(Clear, use_global_unstructured=False)
    fit(Net(), pruning, max_epochs=2)
    assert [one.pruned for one in pruning.sparsity()] == [2 * 6, 2 * 2]


def test_a_class_that_prunes_whole_tensors_at_once() -> None:
    class Threshold(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return default_mask * (t.abs() > 0.2)

    module = Net()
    fit(module, ModelPruning(Threshold, use_global_unstructured=False, use_lottery_ticket_hypothesis=False))
    expected = by_hand(each(Threshold.apply)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.net.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_other_precisions(precision: Any) -> None:
    module, pruning = Net(), ModelPruning("l1_unstructured")
    fit(module, pruning, max_epochs=2, precision=precision)
    assert pruning.total_sparsity() == 0.75
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert {one.dtype for one in module.parameters()} == {dtype}


def test_pruning_by_oneself_in_a_hook_and_what_it_needs() -> None:
    def prune_now(trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            by_oneself.apply_pruning(8)
            by_oneself.apply_lottery_ticket_hypothesis()

    by_oneself = ModelPruning("l1_unstructured", apply_pruning=False, use_lottery_ticket_hypothesis=lambda epoch: False)
    module = Net()
    fit(module, by_oneself, LambdaCallback(on_train_batch_end=prune_now))
    assert sum(one.pruned for one in by_oneself.sparsity()) == 8
    assert not prune.is_pruned(module)
    without = ModelPruning("l1_unstructured", use_lottery_ticket_hypothesis=False)
    with pytest.raises(MisconfigurationException, match="has kept no values to return to"):
        without.apply_lottery_ticket_hypothesis()
    with pytest.raises(MisconfigurationException, match="does not know yet what to prune"):
        without.apply_pruning(0.5)


def test_plain_weights_are_not_loaded_over_masks_while_it_trains() -> None:
    plain = Net().state_dict()

    def load_plain(trainer: Trainer, pl_module: Any) -> None:
        pickle.dumps(pl_module.net)
        if trainer.current_epoch == 1:
            pl_module.load_state_dict(plain)

    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "net.0.weight_orig"'):
        fit(Net(), ModelPruning("l1_unstructured"), LambdaCallback(on_train_epoch_start=load_plain))
