"""What the processes of a run send each other, and when: the tables of docs/scaling.md, counted."""

from __future__ import annotations

import pytest
from tests.parallel_collectives import HIDDEN, messages
from tests.together import together

PARAMETERS = 4 * HIDDEN + HIDDEN + 2 * HIDDEN + HIDDEN + 1
"""Of two layers and a BatchNorm."""

BUFFERS = 4 * (2 * HIDDEN), 8
"""Bytes of running statistics and of the number of batches, which the strategy sends as bytes."""

SHARE = (PARAMETERS + HIDDEN + 1) // 2
"""Of a process under FSDP, which parts each parameter by rows and fills them up: those of one row are there twice."""

METRICS = ("all_reduce", 128)
VOTE = ("all_reduce", 0)


@pytest.fixture(scope="module")
def sent() -> dict[str, dict[str, list[tuple[str, int]]]]:
    """The messages of process 0 by strategy and by what went on; both processes send the same."""
    found: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for strategy in ("ddp", "fsdp"):
        first, second = (ended.value for ended in together(messages, strategy))
        assert first == second
        by_event: dict[str, list[tuple[str, int]]] = {}
        for during, collective, elements in first:
            by_event.setdefault(during, []).append((collective, elements))
        found[strategy] = by_event
    return found


def test_a_step_of_ddp_sends_gradients_and_buffers(sent: dict[str, dict[str, list[tuple[str, int]]]]) -> None:
    buffers = [("broadcast", 2 * HIDDEN), ("broadcast", 1)]  # of process 0, before the forward pass
    gradients = [("all_reduce", PARAMETERS)]
    steps = {name: there for name, there in sent["ddp"].items() if name.startswith("step ") and name[-1].isdigit()}
    assert steps["step 2"] == steps["step 4"] == buffers + gradients
    assert steps["step 0"] == steps["step 3"] == [*buffers, *gradients, METRICS]
    # DDP agrees once on the order of its buckets: on six parameters' places and their number, and on sizes.
    order, sizes = ("broadcast", 7), ("broadcast", 1)
    assert steps["step 1"] == [buffers[0], order, buffers[1], sizes, *gradients, METRICS]


def test_a_step_of_fsdp_gathers_weights_and_scatters_gradients(
    sent: dict[str, dict[str, list[tuple[str, int]]]],
) -> None:
    # gloo has no reduce_scatter: PyTorch reduces all of it instead
    step = [("all_gather", SHARE), ("all_reduce", 2 * SHARE)]
    for at in range(5):
        assert sent["fsdp"][f"step {at}"] == [*step, *[METRICS] * (at in (0, 1, 3))]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_epoch_s_end_sends_two_messages_of_metrics(
    sent: dict[str, dict[str, list[tuple[str, int]]]], strategy: str
) -> None:
    buffers = [("broadcast", size) for size in BUFFERS]
    weights = [("all_gather", SHARE)] * (strategy == "fsdp")
    assert sent[strategy]["validation"][-2:] == [METRICS, METRICS]
    assert [one for one in sent[strategy]["validation"] if one in buffers + weights] == buffers + weights
    # The first message of an epoch's end comes before the hooks that mark it here.
    assert METRICS in sent[strategy]["validation is over"]
    assert sent[strategy]["epoch is over"].count(METRICS) == 1
