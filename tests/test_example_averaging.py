"""The example of averaging runs, an average is the better model, and its page shows what it prints."""

from __future__ import annotations

from tests.example_tables import tables_of


def test_the_example_prints_a_table_like_that_of_its_page() -> None:
    printed, shown = tables_of("averaging", "averaging.md")
    assert [row[0] for row in printed] == [row[0] for row in shown]  # the rest is of the machine
    none, *averaged = [float(row[1].rstrip("%")) for row in printed]
    assert all(accuracy > none for accuracy in averaged)
    assert averaged[0] >= 97
