from __future__ import annotations

import io

import pytest

from leyden.cli.output import one_line, plain, say, table, terminal_width


@pytest.mark.parametrize("text", ["\x1b[2J", "\r", "\x07", "\u202e", "\x9b", "a\nb", "\x00"])
def test_plain_text_cannot_steer_a_terminal(text: str) -> None:
    assert plain(f"x{text}y").isprintable()
    assert len(plain(f"x{text}y")) == len(text) + 2


def test_an_error_is_one_line() -> None:
    assert one_line(ValueError("no\n  driver\x1b[31m")) == "no driver�[31m"


def test_signs_without_an_encoding_become_question_marks() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("│ é", stream)
    stream.seek(0)
    assert stream.read() == "? ?\n"


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("", None), ("0", None), ("wide", None), ("-4", None)])
def test_the_width_is_that_of_columns_and_none_without_a_terminal(
    columns: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width


ROWS = [["on_train_batch_start", "before each training step", 1.5], ["setup", "", 20.0]]


def test_a_table_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "48")
    assert table("Two", ["hook", "called", "ms"], ROWS).splitlines() == [
        "Two",
        "┌──────────────────────┬────────────────┬──────┐",
        "│ hook                 │ called         │   ms │",
        "├──────────────────────┼────────────────┼──────┤",
        "│ on_train_batch_start │ before each    │  1.5 │",
        "│                      │ training step  │      │",
        "│ setup                │                │ 20.0 │",
        "└──────────────────────┴────────────────┴──────┘",
    ]


def test_where_names_would_be_cut_each_row_is_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert table("Two", ["hook", "called", "ms"], ROWS).splitlines() == [
        "Two",
        "",
        "on_train_batch_start",
        "  called: before each",
        "    training step",
        "  ms: 1.5",
        "setup",
        "  ms: 20.0",
    ]


def test_names_in_a_table_cannot_steer_a_terminal() -> None:
    assert table("", ["name"], [["\x1b[31mred\nline"]]).splitlines()[3] == "│ �[31mred�line │"
