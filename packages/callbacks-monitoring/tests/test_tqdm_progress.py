"""What TQDMProgressBar has of its own: the form of its lines, bars that a subclass makes, lines left free."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pseudo_terminal import Look, Model, Terminal, always_due_fixture, make_trainer, terminal_fixture

from leyden import MisconfigurationException
from leyden_monitoring import TQDMProgressBar

__all__ = ["always_due_fixture", "terminal_fixture"]


def test_form_of_the_line(terminal: Terminal) -> None:
    bar = TQDMProgressBar()
    make_trainer(terminal, bar).fit(Model())
    (line,) = terminal.lines
    assert re.fullmatch(r"Epoch 0: 100%\|█+\| 4/4 \[00:00<00:00, .*(it/s|s/it), a=3.000, b=0.250\]", line)
    with pytest.raises(TypeError, match="has no bar of this stage now"):
        assert bar.train_progress_bar


def test_bars_of_several_processes_in_one_terminal(terminal: Terminal) -> None:
    look = Look(terminal, "on_train_epoch_end")
    rows: list[int] = []

    def find(*args: Any) -> None:
        assert len(terminal.lines) == 1
        rows.extend(row for row, line in enumerate(terminal.display) if "Epoch" in line)

    look.on_train_batch_end = find  # type: ignore[method-assign,assignment]
    make_trainer(terminal, TQDMProgressBar(process_position=2), look, limit_val_batches=0).fit(Model())
    assert rows == [4] * 4


@pytest.mark.usefixtures("always_due")
def test_bars_that_a_subclass_makes(terminal: Terminal) -> None:
    class Own(TQDMProgressBar):
        BAR_FORMAT = "{l_bar}{n_fmt}{postfix}"

        def init_validation_tqdm(self) -> Any:
            made = super().init_validation_tqdm()
            made.set_description("checking")
            return made

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            return {"lr": 0.5, "host": "n1"}

    look = Look(terminal, "on_validation_batch_end")
    bar = Own()
    make_trainer(terminal, bar, look).fit(Model(val=1))
    assert look.seen[0][1] == ["Epoch 0: 100%|4, lr=0.500, host=n1", "checking: 100%|1"]
    assert bar.main_progress_bar if bar._display else True


def test_every_wrong_argument_is_named() -> None:
    arguments: dict[str, Any] = {"process_position": -1, "refresh_rate": 1.5, "leave": 1}
    with pytest.raises(MisconfigurationException) as caught:
        TQDMProgressBar(**arguments)
    assert [line.split("(")[1].split("=")[0] for line in str(caught.value).splitlines()] == list(arguments)
