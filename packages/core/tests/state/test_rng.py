"""Generator states that a checkpoint can hold."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from leyden.seed import isolate_rng
from leyden.state.rng import collect_rng, restore_rng


@pytest.fixture(autouse=True)
def _isolated_generators() -> Iterator[None]:
    with isolate_rng():
        yield


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        *torch.randn(3).tolist(),
    ]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("draws_before", [0, 1, 5])
def test_every_generator_goes_on_where_it_was(draws_before: int) -> None:
    for _ in range(draws_before):  # an odd number leaves half a pair of gaussians behind
        draw()
    state = through_a_file(collect_rng())
    expected = [draw() for _ in range(400)]  # more than the 624 words of a Mersenne twister
    restore_rng(state)
    assert [draw() for _ in range(400)] == expected


def test_the_state_does_not_change_with_the_generators() -> None:
    state = collect_rng()
    expected = draw()
    restore_rng(state)
    draw()
    restore_rng(state)
    assert draw() == expected


def test_generators_that_a_state_lacks_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    restore_rng({"python": collect_rng()["python"]})
    assert torch.equal(torch.rand(2), expected)


def test_states_of_devices_that_are_not_here_are_left_out() -> None:
    state = collect_rng()
    count = torch.cuda.device_count()
    state["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * (count + 1) if count == 0 else []
    if not torch.backends.mps.is_available():
        state["mps"] = torch.zeros(16, dtype=torch.uint8)
    expected = draw()
    restore_rng(state)
    assert draw() == expected


def test_each_device_goes_on_by_its_own_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices whose generators are the CPU's kind; the driver is the edge."""
    devices = [torch.Generator().manual_seed(number) for number in range(2)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [device.get_state() for device in devices])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: devices[index].set_state(state))
    state = through_a_file(collect_rng())
    expected = [torch.rand(3, generator=device).tolist() for device in devices]
    restore_rng(state)
    assert [torch.rand(3, generator=device).tolist() for device in devices] == expected
    del devices[1]  # a machine with fewer goes on with those it has
    restore_rng(state)
    assert torch.rand(3, generator=devices[0]).tolist() == expected[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_goes_on_where_it_was() -> None:
    torch.rand(3, device="cuda")
    state = through_a_file(collect_rng())
    expected = torch.rand(3, device="cuda").tolist()
    restore_rng(state)
    assert torch.rand(3, device="cuda").tolist() == expected


def test_numpy_is_not_imported_for_it() -> None:
    program = (
        "import sys; sys.modules['numpy'] = None\n"  # an environment without NumPy
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch\n"
        "del sys.modules['numpy']\n"
        "from leyden.state.rng import collect_rng, restore_rng\n"
        "state = collect_rng(); restore_rng(state)\n"
        "print(sorted(state), 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "['python', 'torch'] False\n"
