"""What strategies do in two processes beside giving the right weights; `test_parallel_training` compares these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel_behaviour import (
    BEHAVIOURS,
    ON_CPU,
    LeavesOut,
    OneLeavesOut,
    OneSkips,
    Untrained,
    leave_out_alone,
    seen,
)
from tests.parallel_runs import Net, fit
from tests.parallel_strategies import alone, outcomes
from tests.together import together


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw, one behaviour after the other: they are started once."""
    return [ended.value for ended in together(seen, *BEHAVIOURS, timeout_s=300, folder=tmp_path_factory.mktemp("both"))]


def of(both: list[dict[str, Any]], name: str) -> tuple[Any, Any]:
    first, second = (one[name] for one in both)
    assert not isinstance(first, str), first
    assert not isinstance(second, str), second
    return first, second


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_processes_do_together(both: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(of(both, "collectives")):
        gathered, gradient = found.pop("gathered"), found.pop("gradient")
        assert found == {
            "mean": 1.5, "sum": 3.0, "max": 2.0, "min": 1.0, "default": 1.5, "no tensor": "text",
            "given": 1.0 + rank, "all": False, "any": True, "first": {"from": 0}, "second": [1],
        }  # fmt: skip
        close(gathered["a"], torch.tensor([[1.0], [2.0]]))
        close(gathered["b"], [torch.tensor([0, 1]), torch.tensor([2.5, 2.5])])
        assert gathered["c"] == "text"
        close(gradient, torch.tensor([[3.0], [30.0]][rank]))  # the sum of what both processes make of it


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_may_evaluate_different_numbers_of_batches(both: list[dict[str, Any]], strategy: str) -> None:
    """Of two processes one has 1 batch, the other 4; neither waits for the other, and training goes on in shards."""
    first, second = of(both, f"evaluation_of_uneven_batches_by_{strategy}")
    assert (first["evaluated"], second["evaluated"]) == ([1, 1, 1], [1, 1, 4])
    for found in (first, second):
        assert found["between"] == found["within"] == {False}  # whole for all of the pass
        assert found["after"] is (strategy == "fsdp")
        assert found["same"]
    close(first["weights"], of(both, "evaluation_of_even_batches_by_fsdp")[0]["weights"])
    close(first["weights"], second["weights"])


def test_even_evaluation_gathers_a_layer_at_a_time(both: list[dict[str, Any]]) -> None:
    for found in of(both, "evaluation_of_even_batches_by_fsdp"):
        assert found["between"] == found["within"] == {True}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_evaluate_with_the_statistics_that_are_saved(both: list[dict[str, Any]], strategy: str) -> None:
    first, second = of(both, f"evaluation_of_uneven_batches_by_{strategy}")
    assert len({tuple(mean.tolist()) for mean in first["means"]}) == 3  # before training and after each epoch
    assert {tuple(mean.tolist()) for mean in first["means"]} == {tuple(mean.tolist()) for mean in second["means"]}
    close(first["means"][-1], first["weights"]["norm.running_mean"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_leave_out_the_step_in_which_one_overflows(both: list[dict[str, Any]], strategy: str) -> None:
    first, second = of(both, f"overflow_of_one_process_by_{strategy}")
    assert first[:2] == second[:2] == (5, 512.0)  # one of six steps left out, the scale of 1024 halved
    close(first[2], second[2])
    assert all(torch.isfinite(weight).all() for weight in first[2].values())


def test_norms_of_gradients_are_whole(both: list[dict[str, Any]]) -> None:
    for by_ddp, by_fsdp in of(both, "norms_of_gradients"):
        assert len(by_ddp) == 5
        assert by_fsdp == pytest.approx(by_ddp, rel=1e-5)


@pytest.mark.filterwarnings("ignore:No optimizer step")
def test_a_module_of_which_nothing_is_trained_at_first(both: list[dict[str, Any]]) -> None:
    alone = fit("auto", ON_CPU, Untrained)
    for found in of(both, "nothing_to_train_at_first"):
        for run in found.values():
            assert run["steps"] == alone["steps"] == 6
            close(run["weights"], alone["weights"])


def test_a_module_without_parameters(both: list[dict[str, Any]]) -> None:
    assert of(both, "nothing_to_train_at_all") == ([24, 24], [24, 24])


def test_a_window_whose_last_batch_has_no_loss(both: list[dict[str, Any]]) -> None:
    alone = fit("auto", {**ON_CPU, "accumulate_grad_batches": 2}, LeavesOut)
    for found in of(both, "windows_that_end_without_a_loss"):
        assert found["ddp"]["steps"] == alone["steps"] == 4
        close(found["ddp"]["weights"], alone["weights"])
        assert "returned None for the last batch of an accumulation window" in found["fsdp"]["error"]


@pytest.mark.parametrize(
    ("kind", "did"), [(OneLeavesOut, "training_step returned None"), (OneSkips, "on_train_batch_start returned -1")]
)
def test_a_process_that_leaves_batches_out_alone_is_not_waited_for_for_ever(kind: type[Net], did: str) -> None:
    first, second = together(leave_out_alone, kind, timeout_s=50)
    assert f"{kind.__name__}.{did} in process 1 and not in others" in second.error
    assert "ProcessFailedError: Process 1 of 2 failed" in first.error


def test_epochs_that_all_processes_skip(both: list[dict[str, Any]]) -> None:
    first, second = of(both, "skipped_epochs")
    assert first == second == 6  # of one epoch of four


def test_different_numbers_of_training_batches_are_told(both: list[dict[str, Any]]) -> None:
    for rank, (kind, message) in enumerate(of(both, "uneven_training")):
        assert kind == "MisconfigurationException"
        assert f"Process {rank} has {3 + rank} training batches in this epoch, others from 3 to 4" in message
        assert "limit_train_batches=3" in message


def test_a_sharded_module_may_be_called_in_any_hook(both: list[dict[str, Any]]) -> None:
    for found in of(both, "calls_outside_of_steps"):
        (calls, shards, weights), *sharded = found
        assert shards == {False}
        for other_calls, other_shards, other_weights in sharded:
            assert other_shards == {True}
            close(other_calls, calls)
            close(other_weights, weights)


def test_a_process_without_a_sample_to_predict(both: list[dict[str, Any]]) -> None:
    assert of(both, "predictions_of_fewer_samples_than_processes") == ([1, 1], [0, 0])


def test_several_runs_of_a_module(both: list[dict[str, Any]]) -> None:
    for first, second in zip(*of(both, "several_runs_of_one_trainer"), strict=True):
        assert first[:2] == second[:2] == (12, 6)
        close(first[2], second[2])
        close(first[3], second[3])
    by_ddp, by_fsdp = of(both, "several_runs_of_one_trainer")[0]
    close(by_ddp[2:4], by_fsdp[2:4])
    assert not torch.equal(by_ddp[2]["net.0.weight"], by_ddp[3]["net.0.weight"])


def test_layers_made_on_the_meta_device(both: list[dict[str, Any]]) -> None:
    first, second = of(both, "layers_made_on_the_meta_device")
    assert first["tied"] is second["tied"] is True
    assert first["steps"] == 6
    close(first["begun"], second["begun"])
    for name, trained in first["trained"].items():
        close(first["read"][name], trained)
        if "running" not in name:  # which are each process's own until they are evaluated with
            close(trained, second["trained"][name])
    begun, bound = first["begun"]["net.0.weight"], 0.5  # as nn.Linear(4, 8) draws them
    assert 0 < begun.abs().max() <= bound
    assert begun.unique().numel() == 32
    close(first["begun"]["net.1.running_var"], torch.ones(8))


def test_a_module_after_fsdp(both: list[dict[str, Any]]) -> None:
    first, second = of(both, "module_after_fsdp")
    kind, share, whole, called, refused = first
    assert (kind, tuple(share), tuple(whole)) == ("DTensor", (4, 4), (8, 4))
    close(called, second[3])
    assert "has its weights in shards, of a run with strategy='fsdp'" in refused


def test_a_strategy_of_ones_own(both: list[dict[str, Any]]) -> None:
    alone = fit("auto", ON_CPU, Net)
    for weights, steps, world_size in of(both, "own_strategy"):
        assert (steps, world_size) == (alone["steps"], 2)
        close(weights, alone["weights"])


def test_schedulers_take_the_value_of_the_first_process(both: list[dict[str, Any]]) -> None:
    for (metrics, weights), (others, its) in zip(*of(both, "schedulers_that_monitor"), strict=True):
        close(metrics, torch.tensor([0.0, -1.0, -2.0]))
        close(others, metrics)
        close(its, weights)


def test_what_is_set_free_within_an_epoch_is_the_same_from_the_next_on(both: list[dict[str, Any]]) -> None:
    first, second = of(both, "layers_set_free_within_an_epoch")
    close(first, second)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unused", ["Parameters that no loss has used in the last step: lost.weight, lost.bias.", "unused_parameters"]),
        ("static", ["DDPStrategy(static_graph=True) promises that every step uses the same parameters"]),
        ("twice", ["had its gradient computed twice in one backward pass", "use_reentrant=False"]),
        (
            "static, by hand",
            ["static_graph=True) with Adversaries, which steps its optimizers by hand"],
        ),
        ("past the strategy", ["training_step has called backward() of a tensor", "self.manual_backward(loss)"]),
        (
            "frozen",
            ["Parameters that no loss has used in the last step: net.0.weight, net.0.bias.", "before the epoch"],
        ),
        ("hooked", ["net.0.weight has a hook on its gradient, which strategy='fsdp' would lose"]),
        ("of two dtypes", ["Weights that are gathered together have several dtypes", "torch.float64"]),
        ("too late", ["Growing has got head.weight, head.bias after strategy='fsdp' has sharded"]),
        ("factored", ["An operation that torch does not have for weights in shards (aten.", "Adafactor"]),
        ("outside", ["A layer was used while its weights were in shards (aten.addmm.default)", "self(batch)"]),
    ],
)
def test_errors_of_the_engines_say_what_to_do(both: list[dict[str, Any]], name: str, words: list[str]) -> None:
    kinds, messages = zip(*of(both, name), strict=True)
    assert "MisconfigurationException" in kinds
    message = messages[kinds.index("MisconfigurationException")]
    assert [word for word in words if word not in message] == []


def test_fsdp_in_one_process() -> None:
    names = ["fsdp", "fsdp, layers", "fsdp, manual"]
    found, single = (together(run, *names, processes=1)[0].value for run in (outcomes, alone))
    for name in names:
        assert not isinstance(found[name], str), found[name]
        close(found[name]["weights"], single[name]["weights"])
