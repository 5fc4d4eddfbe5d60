"""The example of finetuning runs, transfers what was learned, and its page shows what it prints."""

from __future__ import annotations

from tests.example_tables import tables_of


def test_the_example_prints_tables_like_those_of_its_page() -> None:
    printed, shown = tables_of("finetuning", "callbacks/backbone_finetuning.md")
    ways, rates = printed[:5], printed[5:]
    assert [row[:2] for row in ways] == [row[:2] for row in shown[:5]]  # accuracies are of the machine
    assert rates == shown[5:]
    accuracy = {row[0]: float(row[2].rstrip("%")) for row in ways}
    assert accuracy["from scratch"] < accuracy["head alone"] < accuracy["backbone from epoch 3"] - 10
    assert accuracy["level by level"] >= 75
