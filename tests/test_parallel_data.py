"""What several processes read and log is what one process reads and logs: uneven shares, one message, no look waits."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parallel_data import all_evaluated, trained
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
    assert first["sent"][:2] + first["sent"][-1:] == [("sum", 128), ("max", 2), ("sum", 128)]
    assert first["sent"][2:-1] == own_function
    assert [op for op, _ in first["sent"]] == [op for op, _ in second["sent"]]


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
    assert first["sent"] == [
        *[message] * 3, *validation, *[message] * 2,
        *[message] * 3, *validation, *[message] * 2,
    ]  # fmt: skip
    assert len(second["sent"]) == len(first["sent"])


def test_who_reads_in_one_process_alone_gets_the_last_values_that_were_shared(fits: list[dict[str, Any]]) -> None:
    first, second, _ = fits
    assert second["read"] == []
    train_batches = [read["loss_step"] for read in first["read"] if "loss_step" in read]
    assert len(set(train_batches)) == 1 + BATCHES + 1  # at the beginning, at each second step, at the first epoch's end
