from __future__ import annotations

import pytest

from leyden.tables import evaluation_table, render_table


def test_an_empty_table_has_its_head() -> None:
    assert render_table(["a", "bb"], []).splitlines() == ["┌───┬────┐", "│ a │ bb │", "├───┼────┤", "└───┴────┘"]


def test_a_title_stands_above() -> None:
    assert render_table(["a"], [["x"]], title="Title").splitlines()[0] == "Title"


def test_numbers_stand_right_and_text_left() -> None:
    lines = render_table(["name", "mixed", "number"], [["x", 1, 1], ["long name", "text", 1000]]).splitlines()
    assert lines[3:5] == ["│ x         │ 1     │      1 │", "│ long name │ text  │   1000 │"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1.0"),
        (-3.0, "-3.0"),
        (1 / 3, "0.333333"),
        (1e-9, "1e-09"),
        (123456789.0, "1.23457e+08"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (7, "7"),
    ],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert render_table(["x"], [[number]]).splitlines()[3] == f"│ {text} │"


def test_every_line_is_as_wide() -> None:
    table = render_table(["name", "value"], [["a" * 30, 0.5], ["b", "text"]])
    assert len({len(line) for line in table.splitlines()}) == 1


def test_cells_are_wrapped_between_words_to_a_width() -> None:
    rows = [["on_fit_start", "a sentence of several words", 12.5], ["b", "short", 1.0]]
    assert render_table(["hook", "called", "n"], rows, width=40).splitlines() == [
        "┌──────────────┬────────────────┬──────┐",
        "│ hook         │ called         │    n │",
        "├──────────────┼────────────────┼──────┤",
        "│ on_fit_start │ a sentence of  │ 12.5 │",
        "│              │ several words  │      │",
        "│ b            │ short          │  1.0 │",
        "└──────────────┴────────────────┴──────┘",
    ]
    assert render_table(["hook", "called", "n"], rows, width=1000) == render_table(["hook", "called", "n"], rows)


def test_a_name_is_not_cut() -> None:
    assert render_table(["a"], [["on_train_batch_start"]], width=10) == render_table(["a"], [["on_train_batch_start"]])


def test_results_have_a_column_per_dataloader() -> None:
    table = evaluation_table(
        "validate",
        [{"loss/dataloader_idx_0": 0.5, "only": 1.0, "end": 9.0}, {"loss/dataloader_idx_1": 0.25, "end": 9.0}],
    )
    assert table.splitlines()[1:-1] == [
        "│ validate metric │ dataloader 0 │ dataloader 1 │",
        "├─────────────────┼──────────────┼──────────────┤",
        "│ end             │          9.0 │          9.0 │",
        "│ loss            │          0.5 │         0.25 │",
        "│ only            │          1.0 │              │",
    ]


def test_no_results_are_no_table() -> None:
    assert evaluation_table("test", [{}, {}]) == ""
    assert evaluation_table("test", []) == ""
