"""What RichProgressBar has of its own: theme, columns, console, notebooks; and both summaries on a terminal."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from pseudo_terminal import Model, Terminal, always_due_fixture, make_trainer, terminal_fixture
from torch import Tensor, nn

from leyden import MisconfigurationException, Trainer
from leyden_monitoring import (
    ModelSummary,
    RichModelSummary,
    RichProgressBar,
    RichProgressBarTheme,
    TQDMProgressBar,
)

__all__ = ["always_due_fixture", "terminal_fixture"]


def test_colours_of_the_theme(terminal: Terminal) -> None:
    theme = RichProgressBarTheme(
        description="red",
        progress_bar_finished="green",
        metrics="blue",
        metrics_text_delimiter="; ",
        metrics_format=".1e",
    )
    make_trainer(terminal, RichProgressBar(theme=theme)).fit(Model())
    coloured = {colour: text.strip() for colour, text in terminal.colours(0) if colour != "default"}
    assert coloured["red"] == "Epoch 0"
    assert set(coloured["green"]) == {"━"}
    assert coloured["blue"] == "a=3.0e+00; b=2.5e-01"


def test_columns_that_a_subclass_chooses(terminal: Terminal) -> None:
    class Own(RichProgressBar):
        def configure_columns(self, trainer: Trainer) -> Any:
            from rich.progress import TextColumn

            return [TextColumn("{task.description} {task.completed}"), TextColumn("{task.fields[metrics]}")]

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            return {"a": 7}

    make_trainer(terminal, Own(leave=True), limit_val_batches=0).fit(Model())
    assert [line.split() for line in terminal.lines] == [["Epoch", "0", "4", "{'a':", "'7'}"]]


def test_console_on_standard_error(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(terminal, RichProgressBar(console_kwargs={"stderr": True}), limit_val_batches=0)
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    trainer.fit(Model())
    assert pipe.getvalue() == ""
    (line,) = terminal.lines
    assert line.startswith("Epoch 0 ━")


def test_every_wrong_argument_is_named() -> None:
    arguments: dict[str, Any] = {"refresh_rate": -1, "leave": 1, "theme": "green", "console_kwargs": [1]}
    with pytest.raises(MisconfigurationException) as caught:
        RichProgressBar(**arguments)
    assert [line.split("(")[1].split("=")[0] for line in str(caught.value).splitlines()] == list(arguments)


@pytest.mark.parametrize("wrong", [{"time": "dimm"}, {"metrics_format": "3q"}, {"metrics_text_delimiter": 1}])
def test_wrong_theme(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="RichProgressBarTheme"):
        RichProgressBarTheme(**wrong)


@pytest.mark.usefixtures("always_due")
def test_notebook_replaces_its_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: dict[str, list[str]] = {}

    class ZMQInteractiveShell:
        """As IPython's is called in a notebook."""

    def display(data: dict[str, str], *, raw: bool, display_id: str) -> None:
        shown.setdefault(display_id, []).append(data["text/plain"])
        assert "<pre" in data["text/html"]

    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell
    ipython.display = ModuleType("IPython.display")
    ipython.display.display = ipython.display.update_display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    trainer = Trainer(
        accelerator="cpu", callbacks=[RichProgressBar()], max_epochs=2, logger=False, discover_callbacks=False
    )
    trainer.fit(Model())
    (output,) = shown.values()
    lines = output[-1].splitlines()
    assert lines[0].startswith("Epoch 1")
    assert "4/4" in lines[0]
    assert any("Validation" in text for text in output)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("callback", [RichProgressBar, RichModelSummary])
def test_yours_takes_the_place_of_the_discovered_one(callback: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEYDEN_CALLBACKS")
    trainer = Trainer(accelerator="cpu", callbacks=[callback()], logger=False, enable_checkpointing=False)
    with_role = [type(one).__name__ for one in trainer.callbacks if one.role == callback.role]
    assert with_role == [callback.__name__]


# -- summaries -----------------------------------------------------------------------------------------------------


class Net(Model):
    """Has parts within parts, a shared weight, a dropout and a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.body[0].weight  # type: ignore[assignment]
        self.tied.bias.requires_grad = False
        self.body[1].eval()
        self.example_input_array = torch.zeros(3, 4)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.layer(self.tied(self.body(batch)))
        return out


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
@pytest.mark.parametrize("terminal", [{"rows": 20}], indirect=True)
def test_summary_on_a_terminal(terminal: Terminal, summary: Any) -> None:
    module = Net()
    trainer = make_trainer(terminal, summary(max_depth=-1), max_steps=1, limit_val_batches=0)
    trainer.fit(module)
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in terminal.lines if "│" in line]
    rows = [row for row in cells if row[0].isdigit()]
    inner, size = ["[3, 4]", "[3, 4]"], "[3, 4]"
    assert rows == [
        ["0", "layer", "Linear", str(sum(p.numel() for p in module.layer.parameters())), "train", size, "[3, 2]"],
        ["1", "body", "Sequential", "20", "train", *inner],
        ["2", "body.0", "Linear", "20", "train", *inner],
        ["3", "body.1", "Dropout", "0", "eval", *inner],
        ["4", "tied", "Linear", "20", "train", *inner],
    ]
    totals = [line.split()[0] for line in terminal.lines if line.startswith("  ")]
    assert totals[:3] == ["30", "4", "34"]
    assert [part.training for part in (module.body, module.body[1])] == [True, False]


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
@pytest.mark.parametrize("terminal", [{"encoding": "ascii"}], indirect=True)
def test_summary_where_only_ascii_is_known(terminal: Terminal, summary: Any) -> None:
    make_trainer(terminal, summary(), max_steps=1, limit_val_batches=0).fit(Model())
    assert any("Linear" in line for line in terminal.lines)
    assert all(line.isascii() for line in terminal.lines)


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
def test_summary_for_an_output_that_is_closed(terminal: Terminal, summary: Any) -> None:
    trainer = make_trainer(terminal, summary(), max_steps=1, limit_val_batches=0)
    terminal.stdout.close()
    with pytest.warns(UserWarning, match="The model summary could not be printed: ValueError"):
        trainer.fit(Model())
    assert trainer.global_step == 1


def test_summary_of_rich_fits_a_narrow_terminal(terminal: Terminal) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal.stdout.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 0, 0))
    make_trainer(terminal, RichModelSummary(), max_steps=1, limit_val_batches=0).fit(Model())
    assert max(map(len, terminal.lines)) < 40 or all("│" not in line for line in terminal.lines if len(line) >= 40)


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
def test_summary_in_a_log_has_a_line_for_each_part(capsys: pytest.CaptureFixture[str], summary: Any) -> None:
    module = Model()
    module.part = type("A" * 200, (nn.Identity,), {})()
    trainer = Trainer(
        fast_dev_run=True, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[summary()]
    )
    trainer.fit(module)
    assert sum("A" * 200 in line for line in capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
def test_summary_leaves_random_state_and_gradients_alone(summary: Any) -> None:
    module = Net()
    module.layer.weight.grad = torch.ones_like(module.layer.weight)
    before = torch.get_rng_state()
    summary(max_depth=-1).describe(module)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(module.layer.weight.grad, torch.ones_like(module.layer.weight))
    assert module.tied.bias.grad is None


def test_bars_are_of_one_role() -> None:
    assert RichProgressBar().role == TQDMProgressBar().role == "progress_bar"
