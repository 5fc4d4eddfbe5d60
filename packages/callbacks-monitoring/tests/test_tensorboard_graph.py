"""The graph in TensorBoard: recorded without a trace in the module, or a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard_runs import Drawn, Net, fit, loader, read, scalars
from torch import Tensor, nn

from leyden_monitoring import TensorBoardLogger


def nodes(folder: str) -> set[str]:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = read(folder).Graph()
    assert isinstance(graph, GraphDef)
    return {node.name for node in graph.node}


def test_the_graph_is_recorded_and_the_training_is_what_it_was(tmp_path: Path) -> None:
    plain, logger = TensorBoardLogger(tmp_path, "without"), TensorBoardLogger(tmp_path, "with", log_graph=True)
    torch.manual_seed(2)
    fit(plain, first := Drawn())
    torch.manual_seed(2)
    fit(logger, second := Drawn())
    scopes = {name.rpartition("/")[0] for name in nodes(logger.log_dir)}
    assert {"Drawn/Sequential[net]/Linear[0]/weight", "Drawn/BatchNorm1d[frozen]", "input"} <= scopes
    assert read(plain.log_dir).Tags()["graph"] is False
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert [part.training for part in second.modules()] == [part.training for part in first.modules()]
    assert scalars(logger.log_dir) == scalars(plain.log_dir)


def test_drawing_leaves_no_trace_in_the_module(tmp_path: Path) -> None:
    class Counts(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    module = Counts(4, 2)
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(module, torch.ones(3, 4))
    logger.save()
    assert module.calls == 0
    assert "Counts/weight/weight" in nodes(logger.log_dir)


@pytest.mark.parametrize("example", [(torch.ones(3, 4),), {"x": torch.ones(3, 4)}])
def test_an_example_may_be_a_tuple_or_a_dict(tmp_path: Path, example: Any) -> None:
    module = Drawn()
    module.example_input_array = example
    fit(logger := TensorBoardLogger(tmp_path, log_graph=True), module, max_epochs=1)
    assert "input/x" in nodes(logger.log_dir)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_graph_under_other_precisions(tmp_path: Path, precision: str) -> None:
    fit(logger := TensorBoardLogger(tmp_path, log_graph=True), Drawn(), precision=precision, max_epochs=1)
    assert "input/x" in nodes(logger.log_dir)


def test_any_module_may_be_drawn(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": x + y}

    for number, example in enumerate([(torch.ones(2), torch.ones(2)), {"x": torch.ones(2), "y": torch.ones(2)}]):
        logger = TensorBoardLogger(tmp_path, version=number, log_graph=True)
        logger.log_graph(Pair(), example)
        logger.save()
        assert {"input/x", "input/y"} <= nodes(logger.log_dir)


def test_the_graph_is_recorded_once(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    trainer = fit(logger, Drawn(), max_epochs=1)
    trainer.fit(Drawn(), loader())
    graphs = [event for file in Path(logger.log_dir).glob("*tfevents*") for event in EventFileLoader(str(file)).Load()]
    assert sum(event.HasField("graph_def") for event in graphs) == 1


class Untraceable(Drawn):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not here")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing that calls `forward`."""


class Lazy(Drawn):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more(x))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Net, "give Net an example_input_array"),
        (Untraceable, r"graph of Untraceable is not in TensorBoard.*ValueError: not here"),
    ],
)
def test_a_graph_that_cannot_be_had_is_a_warning(tmp_path: Path, kind: Any, match: str) -> None:
    with pytest.warns(UserWarning, match=match):
        fit(logger := TensorBoardLogger(tmp_path, log_graph=True), kind(), max_epochs=1)
    assert read(logger.log_dir).Tags()["graph"] is False


def test_lazy_layers_are_left_to_the_first_batch(tmp_path: Path) -> None:
    module = Lazy()
    with pytest.warns(UserWarning, match="Lazy has lazy parameters"):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(module)
    assert module.more.has_uninitialized_params()
