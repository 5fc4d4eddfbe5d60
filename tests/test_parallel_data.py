"""What several processes read and log is what one process reads and logs: uneven shares, one message, no look waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel_data import all_evaluated, saved, trained
from tests.parallel_loaders import (
    SIZE,
    TRAINED,
    UNEQUAL,
    predicted,
    read_in_training,
    read_in_validation,
    read_unequal,
)
from tests.parallel_logging import DIFFERENCES, agreeing, different, measured, refused
from tests.together import together

SIZES = {"uneven": (9, 2), "a batch less": (3, 2), "a process without data": (1, 2)}


@pytest.fixture(scope="module")
def passes() -> dict[str, list[Any]]:
    """What each process gave, and then what one alone gave, by the size of the data."""
    cases = list(SIZES.values())
    together_found = [ended.value for ended in together(all_evaluated, *cases)]
    return dict(zip(SIZES, zip(*together_found, all_evaluated(*cases), strict=True), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", SIZES)
def test_each_sample_is_validated_tested_and_predicted_once(passes: dict[str, Any], case: str) -> None:
    first, second, alone = passes[case]
    size = SIZES[case][0]
    for stage in ("test", "predict"):
        assert first["seen"].get(stage, []) == list(range(0, size, 2))
        assert second["seen"].get(stage, []) == list(range(1, size, 2))
        assert alone["seen"][stage] == list(range(size))
    flat = [[row for batch in each["predicted"] for row in batch] for each in (first, second)]
    assert flat == [list(range(0, size, 2)), list(range(1, size, 2))]  # each process returns what is of its share


@pytest.mark.parametrize("case", SIZES)
def test_metrics_of_all_processes_are_those_of_one(passes: dict[str, Any], case: str) -> None:
    first, second, alone = passes[case]
    for name in ("validated", "metrics", "several"):
        expected = alone[name] if isinstance(alone[name], list) else [alone[name]]
        for each in (first, second):
            found = each[name] if isinstance(each[name], list) else [each[name]]
            assert found == [pytest.approx({**one, "val_at_end": 1.5}) for one in expected], name
    assert first["tested"] == second["tested"] == [pytest.approx(one) for one in alone["tested"]]
    assert first["rows"] == second["rows"]


@pytest.mark.parametrize("case", SIZES)
def test_a_process_without_a_batch_takes_part_in_all_hooks(passes: dict[str, Any], case: str) -> None:
    size, batch_size = SIZES[case]
    for rank, each in enumerate(passes[case][:2]):
        own = len(range(rank, size, 2))
        batches, of_second_loader = -(-own // batch_size), 1 - rank
        assert each["called"] == [
            "start", *["batch"] * batches, "epoch_end", "end",
            "start", *["batch"] * (batches + of_second_loader), "epoch_end", "end",
        ]  # fmt: skip


def test_rows_of_steps_are_of_the_processes_that_had_the_batch(passes: dict[str, Any]) -> None:
    first, _, alone = passes["uneven"]
    steps = [(step, row) for step, row in first["rows"] if "at_step_step" in row]
    assert steps == [(0, {"at_step_step": 6}), (1, {"at_step_step": 22}), (2, {"at_step_step": 8})]
    assert sum(row.get("at_step_step", 0) for _, row in alone["rows"]) == 36


def test_an_evaluation_is_two_messages_and_one_for_extremes(passes: dict[str, Any]) -> None:
    first, second, _ = passes["uneven"]
    own_function = [("gather", 1), ("gather", 3), ("sum", 128), ("max", 1)]
    begins, *of_metrics = first["sent"]  # by comparing callbacks and settings
    assert begins == ("sum", 128)
    assert of_metrics[:2] + of_metrics[-1:] == [("sum", 128), ("max", 2), ("sum", 128)]
    assert of_metrics[2:-1] == own_function
    assert [op for op, _ in first["sent"]] == [op for op, _ in second["sent"]]


def test_weights_in_shards_are_evaluated_alike(passes: dict[str, Any]) -> None:
    cases = [(*SIZES[name], "fsdp") for name in ("a batch less", "a process without data")]
    for rank, ended in enumerate(together(all_evaluated, *cases)):
        for name, found in zip(("a batch less", "a process without data"), ended.value, strict=True):
            for part in ("validated", "tested", "predicted", "several", "seen", "called"):
                assert found[part] == passes[name][rank][part]


LOG_EVERY, BATCHES = 2, 5


@pytest.fixture(scope="module")
def fits() -> list[dict[str, Any]]:
    """What the two processes gave, and then what one alone gave."""
    return [ended.value for ended in together(trained, LOG_EVERY, BATCHES)] + [trained(LOG_EVERY, BATCHES)]


def test_rows_and_metrics_of_training_are_those_of_one_process(fits: list[dict[str, Any]]) -> None:
    *pair, alone = fits
    for each in pair:
        assert each["steps"] == alone["steps"] == [BATCHES, 2 * BATCHES, 2 * BATCHES]
        assert each["metrics"] == pytest.approx({**alone["metrics"], "val_at_end": 1.5}, rel=1e-5)
        assert [step for step, _ in each["rows"]] == [step for step, _ in alone["rows"]]
        for (_, row), (_, expected) in zip(each["rows"], alone["rows"], strict=True):
            at_end = {"val_at_end": 1.5} if "val_at_end" in expected else {}
            assert row == pytest.approx({**expected, **at_end}, rel=1e-5)


def test_values_of_steps_are_one_message_an_interval(fits: list[dict[str, Any]]) -> None:
    first, second, _ = fits
    # The first step and steps 2, 4, 6, 8, 10; two at the end of an epoch; two and one for extremes in a validation.
    message, extremes = ("sum", 128), ("max", 2)
    own_function = [("gather", 1), ("gather", 2), message, ("max", 1)]
    validation = [message, extremes, *own_function, message]
    begins = message  # by comparing callbacks and settings
    assert first["sent"] == [
        begins, *[message] * 3, *validation, *[message] * 2,
        *[message] * 3, *validation, *[message] * 2,
    ]  # fmt: skip
    assert len(second["sent"]) == len(first["sent"])


def test_who_reads_in_one_process_alone_gets_the_last_values_that_were_shared(fits: list[dict[str, Any]]) -> None:
    first, second, _ = fits
    assert second["read"] == []
    train_batches = [read["loss_step"] for read in first["read"] if "loss_step" in read]
    assert len(set(train_batches)) == 1 + BATCHES + 1  # at the beginning, at each second step, at the first epoch's end


def test_checkpoints_ranked_by_a_step_s_value_wait_for_that_of_all_processes(tmp_path: Path) -> None:
    first, second = (ended.value for ended in together(saved, str(tmp_path / "pair")))
    alone = saved(str(tmp_path / "alone"))
    assert first == second
    assert list(first["best"]) == ["step=1.ckpt", "step=2.ckpt", "step=4.ckpt", "step=5.ckpt"]  # shared at 1, 2, 4, 5
    assert first["best"] == pytest.approx({name: alone["best"][name] for name in first["best"]}, rel=1e-5)


# -- loaders of every kind --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaders() -> list[dict[str, Any]]:
    """Which rows each of two processes has got in training."""
    return [ended.value for ended in together(read_in_training)]


SHUFFLED = {
    "shuffled", "weighted", "own batch sampler", "distributed already", "persistent workers", "stateful",
}  # fmt: skip
STEPS = {"uneven": (2, 4), "overfit": (2, 4), "half": (3, 6), "accumulating": (6, 4), "own batch sampler": (4, 8)}


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - {"uneven", "whole", "combined", "half", "overfit"}))
def test_training_reads_each_sample_once_an_epoch(loaders: list[dict[str, Any]], name: str) -> None:
    shares = [each[name]["rows"] for each in loaders]
    for first, second in zip(*shares, strict=True):
        assert len(first) == len(second)
        assert sorted([*first, *second]) == list(range(SIZE))
    for share in shares:
        assert (share[0] != share[1]) is (name in SHUFFLED)  # the sampler knows the epoch


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - {"own split", "whole"}))
def test_steps_are_counted_by_a_process_s_share(loaders: list[dict[str, Any]], name: str) -> None:
    batches, steps = STEPS.get(name, (6, 12))
    for each in loaders:
        assert (each[name]["batches"], each[name]["estimated"], each[name]["steps"]) == (batches, steps, steps)


def test_training_repeats_samples_where_shares_would_differ(loaders: list[dict[str, Any]]) -> None:
    assert [each["uneven"]["rows"][0] for each in loaders] == [[0, 2, 4], [1, 3, 0]]
    assert [each["overfit"]["rows"] for each in loaders] == [[[0, 2, 4, 6]] * 2, [[1, 3, 5, 7]] * 2]
    for each in loaders:
        assert each["whole"]["rows"] == [[*range(SIZE)]] * 2  # use_distributed_sampler=False
        assert each["half"]["rows"] == [epoch[:6] for epoch in each["shuffled"]["rows"]]


def test_collections_of_loaders_are_shared_loader_by_loader(loaders: list[dict[str, Any]]) -> None:
    for first, second in zip(*(each["combined"]["rows"] for each in loaders), strict=True):
        assert sorted([*first, *second]) == sorted([*range(SIZE)] * 2)
        in_order = [row for at, row in enumerate(first) if at % 4 < 2]
        assert in_order == list(range(0, SIZE, 2))


def test_limits_of_an_evaluation_are_those_of_the_largest_share() -> None:
    first, second = (ended.value for ended in together(read_in_validation))
    assert {name: (first[name], second[name]) for name in first if name != "shuffled"} == {
        "half": ({"rows": [0, 2], "batches": [2]}, {"rows": [1, 3], "batches": [2]}),
        "two": ({"rows": [0, 2], "batches": [2]}, {"rows": [1, 3], "batches": [2]}),
        "several": ({"rows": [0, 2, 0, 2], "batches": [1, 2]}, {"rows": [1, 1, 3], "batches": [1, 2]}),
        "no last batch": ({"rows": [0, 2, 4, 6], "batches": [2]}, {"rows": [1, 3], "batches": [1]}),
        "fraction of few": ({"rows": [0], "batches": [1]}, {"rows": [1], "batches": [1]}),
        "trained": ({"rows": [0], "batches": [1]}, {"rows": [1], "batches": [1]}),
    }
    shuffled = first["shuffled"]["rows"], second["shuffled"]["rows"]
    assert sorted([*shuffled[0], *shuffled[1]]) == list(range(9))
    assert list(map(len, shuffled)) == [5, 4]


def test_predictions_and_their_indices_are_those_of_the_process_s_share() -> None:
    pair = [ended.value for ended in together(predicted, 5)]
    for each in pair:
        assert each["returned"] == each["epoch"]
        assert each["batches"] == [batch for loader in each["epoch"] for batch in loader]
    rows = [[row for batch in each["returned"][0] for row in batch] for each in pair]
    assert sorted([*rows[0], *rows[1]]) == [0, 1, 2, 3, 4]
    assert [each["returned"][1] for each in pair] == [[[0]], []]


@pytest.mark.parametrize("name", UNEQUAL)
def test_streams_of_different_lengths_end_in_an_error_that_says_so(name: str) -> None:
    fewer = min((0, 1), key=lambda rank: UNEQUAL[name][1][rank])
    found = [ended.value for ended in together(read_unequal, name)]
    assert (found[fewer]["raised"], found[1 - fewer]["raised"]) == ("MisconfigurationException", "ProcessFailedError")
    for each in found:
        assert f"process {fewer} has 3, process {1 - fewer} has more than that" in each["text"]
        assert "Trainer(limit_train_batches=3)" in each["text"]
        assert each["batches"] <= 3


# -- what is logged ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said() -> list[dict[str, str]]:
    """What two processes said of each difference."""
    return [ended.value for ended in together(different)]


EXPECTED = {
    "InSteps": [
        "In training",
        "'of_0' in `training_step` by process 0 of 2 only",
        "'of_1' in `training_step` by process 1",
    ],
    "OneMore": ["In validation", "'more' in `validation_step` by process 1 of 2 only"],
    "AtTheEnd": ["In validation", "'first' in `on_validation_epoch_end` by process 0 of 2 only"],
    "OtherArguments": ["In validation", "'value' in `validation_step` in another way by each"],
    "OneAlone": ["In training", "'value' in `training_step` by process 0 of 2 only"],
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_processes_that_log_different_names_all_say_which(said: list[dict[str, str]], name: str) -> None:
    for each in said:
        assert each[name].startswith("MisconfigurationException: ")
        for part in EXPECTED[name]:
            assert part in each[name]
        assert "log it in every process" in each[name]


@pytest.fixture(scope="module")
def agreed() -> list[dict[str, Any]]:
    """What two processes have of what they log in groups, now and then, and at the end."""
    return [ended.value for ended in together(agreeing)]


def test_values_of_groups_and_of_one_process_alone(agreed: list[dict[str, Any]]) -> None:
    both = {"all": 1.5, "all_step": 1.5, "all_epoch": 1.5, "pair": 2, "pair_step": 2, "pair_epoch": 2, "late": 3.5}
    own = [dict.fromkeys(("own", "own_step", "own_epoch"), rank + 1) for rank in (0, 1)]
    alone = [dict.fromkeys(("first", "first_step", "first_epoch"), 1), {}]
    group = [{}, dict.fromkeys(("second", "second_step", "second_epoch"), 2)]
    for rank, each in enumerate(agreed):
        assert each["Grouped"]["metrics"] == {**both, **own[rank], **alone[rank], **group[rank]}
    steps = [(step, row.get("late")) for step, row in agreed[0]["Grouped"]["rows"] if "late" in row]
    assert steps == [(1, 1.5), (3, 3.5)]  # what is logged in the last hook of a step is in the step's row


def test_who_logs_for_the_epoch_without_sync_dist_is_told_once_by_the_first_process(agreed: list[Any]) -> None:
    (told,) = agreed[0]["Grouped"]["warned"]
    assert told.startswith("self.log('own', ...) is called in 2 processes without sync_dist=True")
    assert agreed[1]["Grouped"]["warned"] == []


def test_a_name_that_all_have_logged_may_be_logged_by_some(agreed: list[dict[str, Any]]) -> None:
    for each in agreed:
        assert each["Sometimes"]["metrics"] == {"some": 1.5, "some_step": 3, "some_epoch": 1.5}
        assert each["Sometimes"]["rows"][:2] == [(1, {"some_step": 1, "epoch": 0}), (3, {"some_step": 3, "epoch": 0})]


def test_who_monitors_sees_what_the_module_logs_at_an_epoch_s_end(agreed: list[dict[str, Any]]) -> None:
    for each in agreed:
        assert each["Summed"]["seen"] == {"at_end": 1}


def test_metrics_of_torchmetrics_reduce_by_themselves_at_the_same_place() -> None:
    pytest.importorskip("torchmetrics")
    sizes = (9, 3, 1)
    alone = measured(*sizes)
    for ended in together(measured, *sizes):
        assert ended.value[:4] == [pytest.approx(one) for one in alone[:4]]
        assert "BinaryAUROC logged as 'kept' keeps the values of all batches" in ended.value[4]
        assert ended.value[5] == pytest.approx(alone[5])


def test_rows_of_an_evaluation_count_on_from_the_longest_share(agreed: list[dict[str, Any]]) -> None:
    assert [each["validated"] for each in agreed] == [[0, 1, 2, 3]] * 2


def test_what_torchmetrics_or_gathering_would_wait_for_is_refused() -> None:
    pytest.importorskip("torchmetrics")
    first, second = (ended.value for ended in together(refused))
    for rank, said in enumerate((first, second)):
        assert "self.log('mean', <MeanMetric>, rank_zero_only=True): process 0 would wait" in said["of the first, 5"]
        assert "Make it MeanMetric(..., process_group=...)" in said["of a group, 5"]
        assert "RetrievalMRR logged as 'kept' keeps a list" in said["kept, 5"]
        assert "They have 2, 1, since" in said["kept, 5"]
        assert said["kept alike, 4"] == "{'kept': 0.75}"
        shape = f"[('torch.float32', ({2 - rank},)), 'int'] in process {rank}"
        assert f"self.all_gather got {shape}, and in another process something else" in said["gathered, 3"]
        assert said["gathered, 4"] == "{'sum': 6.0}"
    assert (first["of its own, 5"], second["of its own, 5"]) == ("{'mean': 2.0}", "{}")
