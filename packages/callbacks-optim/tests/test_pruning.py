"""ModelPruning: what it does to the model and the optimizer, beside others, and at the border of an epoch."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pruned_runs import Net, everything, fit, loader, loss_of, seeded
from torch import Tensor, nn
from torch.nn.utils import prune

from leyden import MisconfigurationException, Trainer
from leyden.callbacks import LambdaCallback, ModelPruning
from leyden.runtime.strategy import SingleDeviceStrategy
from leyden.state.checkpoint import dump


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
