"""The example of pruning runs, prunes as much as it says, and its page shows what it prints."""

from __future__ import annotations

from tests.example_tables import tables_of


def test_the_example_prints_a_table_like_that_of_its_page() -> None:
    printed, shown = tables_of("pruning", "callbacks/model_pruning.md")
    assert [(row[0], row[2]) for row in printed] == [(row[0], row[2]) for row in shown]  # the rest is of the machine
    accuracy = {row[0]: float(row[1].rstrip("%")) for row in printed}
    assert accuracy["not pruned"] >= 97
    assert accuracy["smallest"] >= 95
    assert accuracy["smallest, lottery ticket"] >= 95
    assert accuracy["at random"] < accuracy["smallest"]
    size = {row[0]: float(row[3].removesuffix(" kB")) for row in printed}
    assert size["smallest"] * 3 < size["not pruned"]
