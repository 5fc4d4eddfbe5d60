"""ModelSummary: counts, sizes, operations, and that it leaves the module as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import MisconfigurationException, Trainer
from leyden.testing.models import BoringModule
from leyden_monitoring import ModelSummary
from leyden_monitoring.module_table import describe_module


class Net(BoringModule):
    """Has a frozen layer, a BatchNorm, dropout, parts within parts, and a weight shared by two layers."""

    def __init__(self, example: Any = None) -> None:
        super().__init__(4, 2)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)))
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.body[0].weight  # type: ignore[assignment]
        self.tied.bias.requires_grad = False
        self.example_input_array = example

    def forward(self, batch: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.layer(self.tied(self.body(batch))) * scale
        return out


def test_totals_count_shared_parameters_once() -> None:
    table = describe_module(Net().double())
    assert (table.trainable, table.frozen, table.total) == (10 + 16 + 4 + 8, 4, 42)
    assert table.megabytes == pytest.approx(42 * 8 / 1e6)
    assert [(part.name, part.type, part.parameters) for part in table.parts] == [
        ("layer", "Linear", 10),
        ("body", "Sequential", 28),
        ("tied", "Linear", 20),
    ]
    assert table.flops is None


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (0, []),
        (2, ["layer", "body", "body.0", "body.1", "tied"]),
        (-1, ["layer", "body", "body.0", "body.1", "body.1.0", "body.1.1", "tied"]),
    ],
)
def test_depth(depth: int, names: list[str]) -> None:
    assert [part.name for part in describe_module(Net(), depth).parts] == names


@pytest.mark.parametrize(
    "example", [torch.zeros(3, 4), (torch.zeros(3, 4), 2.0), {"batch": torch.zeros(3, 4), "scale": 2.0}]
)
def test_sizes_and_operations_of_an_example(example: Any) -> None:
    module = Net()
    module.body[1].eval()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    table = describe_module(module, example_input=example)
    assert [(part.in_sizes, part.out_sizes) for part in table.parts] == [
        ([3, 4], [3, 2]),
        ([3, 4], [3, 4]),
        ([3, 4], [3, 4]),
    ]
    assert table.flops == 2 * 3 * (4 * 4 + 4 * 4 + 4 * 2)
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [name for name, part in module.named_modules() if not part.training] == ["body.1", "body.1.0", "body.1.1"]
    assert (table.in_train_mode, table.in_eval_mode) == (4, 3)


def test_several_inputs_and_outputs() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3)

        def forward(self, rows: Tensor) -> Any:
            return self.lstm(rows)

    (part,) = describe_module(Cell(), example_input=torch.zeros(5, 1, 2)).parts
    assert part.out_sizes == [[5, 1, 3], [[1, 1, 3], [1, 1, 3]]]


def test_lazy_parameters_are_told_apart_and_left_lazy() -> None:
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    table = describe_module(module, example_input=torch.zeros(1, 5))
    assert (table.lazy, table.total, table.flops) == (2, 8, None)
    text = str(table)
    assert "│ 0 │ 0    │ LazyLinear │ ?          │ train │" in text
    assert text.splitlines()[-1] == "       2  lazy parameters, whose size the first batch decides, not counted"
    assert isinstance(module[0].weight, nn.UninitializedParameter)


def test_it_is_printed_as_fit_begins(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(
        fast_dev_run=True, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[ModelSummary(2)]
    )
    trainer.fit(Net(torch.zeros(3, 4)))
    assert capsys.readouterr().out.splitlines() == [
        "┌───┬────────┬────────────┬────────────┬───────┬────────┬────────┐",
        "│   │ name   │ type       │ parameters │ mode  │ in     │ out    │",
        "├───┼────────┼────────────┼────────────┼───────┼────────┼────────┤",
        "│ 0 │ layer  │ Linear     │ 10         │ train │ [3, 4] │ [3, 2] │",
        "│ 1 │ body   │ Sequential │ 28         │ train │ [3, 4] │ [3, 4] │",
        "│ 2 │ body.0 │ Linear     │ 20         │ train │ [3, 4] │ [3, 4] │",
        "│ 3 │ body.1 │ Sequential │ 8          │ train │ [3, 4] │ [3, 4] │",
        "│ 4 │ tied   │ Linear     │ 20         │ train │ [3, 4] │ [3, 4] │",
        "└───┴────────┴────────────┴────────────┴───────┴────────┴────────┘",
        "      38  trainable parameters",
        "       4  frozen parameters",
        "      42  parameters in all, 0.000 MB",
        "       7  modules in train mode, 0 in eval mode",
        "     240  floating point operations in a forward of the example input",
    ]


def test_nothing_is_printed_at_depth_zero(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(
        fast_dev_run=True, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[ModelSummary(0)]
    )
    trainer.fit(Net())
    assert capsys.readouterr().out == ""


def test_example_that_does_not_fit_is_no_reason_to_stop() -> None:
    module = Net(torch.zeros(3, 9))
    with pytest.warns(UserWarning, match=r"The model summary has no sizes: running Net.example_input_array failed"):
        table = ModelSummary().describe(module)
    assert table.total == 42
    assert table.parts[0].in_sizes is None
    assert all(part.training and not part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("depth", [-2, 1.0, None, True])
def test_depth_out_of_range(depth: Any) -> None:
    with pytest.raises(MisconfigurationException, match="expected a number of levels >= -1"):
        ModelSummary(depth)


class Remembers(nn.Module):
    """Has a forward that leaves traces in whatever can hold one."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.shapes, self.plain = 0, [torch.Size([])], torch.zeros(1)
        self.cache = {"first": 0}
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.plain += 1
        self.calls += 1
        self.shapes.append(x.shape)
        self.cache["last"] = 1
        self.first = self.layer(x)
        self.added = nn.Linear(1, 1)
        return self.first + torch.rand(1) + random.random()


def test_forward_of_the_example_leaves_no_trace_in_the_module() -> None:
    part = Remembers()
    module, buffer = nn.Sequential(part), part.seen
    random.seed(1), torch.manual_seed(1)
    table = describe_module(module, example_input=torch.zeros(3, 4))
    assert table.parts[0].out_sizes == [3, 2]
    assert (part.calls, part.shapes, part.cache) == (0, [torch.Size([])], {"first": 0})
    assert part.first is None
    assert (part.seen.item(), part.plain.item()) == (0, 0)
    assert part.seen is buffer
    assert list(part._modules) == ["layer"]
    drawn = random.random(), torch.rand(1)
    random.seed(1), torch.manual_seed(1)
    assert drawn == (random.random(), torch.rand(1))


def test_lazy_buffers_are_left_lazy_too() -> None:
    module = nn.Sequential(nn.LazyBatchNorm1d(affine=False))
    assert describe_module(module, example_input=torch.zeros(3, 4)).parts[0].in_sizes is None
    assert type(module[0]) is nn.LazyBatchNorm1d
