"""`trainer.should_stop` in several processes: whoever asks, and wherever, all end behind the same batch."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parallel_endings import HOOKS, endings
from tests.parallel_runs import PROCESSES
from tests.together import Ended, together

_WHERE = {"on_fit_start": 0, "on_train_epoch_end": 6}
_ASKED: list[tuple[str, int, dict[str, Any]]] = [
    *((hook, _WHERE.get(hook, 2), {}) for hook in HOOKS),
    ("on_train_batch_end", 3, {}),
    ("on_train_batch_end", 6, {}),
    ("on_validation_end", 6, {}),
    ("on_train_batch_end", 2, {"min_steps": 5}),
    ("on_validation_end", 4, {"strategy": "fsdp"}),
    ("taken back", 9, {"min_steps": 6}),
]
_ALL, _ONE = tuple(range(PROCESSES)), (PROCESSES - 1,)
CASES = [(hook, done, ranks, arguments) for hook, done, arguments in _ASKED for ranks in (_ALL, (0,), _ONE)]


@pytest.fixture(scope="module")
def ended() -> list[Ended]:
    return together(endings, CASES, processes=PROCESSES, timeout_s=300)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{c[0]}-{c[1]}-by-{c[2]}" for c in CASES])
def test_all_end_behind_the_same_batch(ended: list[Ended], index: int) -> None:
    assert not any(one.error for one in ended), [one.error for one in ended]
    first, *others = (one.value[index] for one in ended)
    assert all(one == first for one in others)
    hook, done, ranks, arguments = CASES[index]
    [(steps, events)] = endings([(hook, done, (0,), {**arguments, "strategy": "auto"})])
    if len(ranks) == PROCESSES:
        assert first == (steps, events)  # as one process does
    else:
        assert steps <= first[0] <= steps + 1
