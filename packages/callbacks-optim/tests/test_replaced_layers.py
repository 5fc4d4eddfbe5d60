"""What stays of a module in which layers are replaced."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from leyden_optim.replaced_layers import all_in_training, under_all_names


def test_what_replaces_a_layer_has_all_its_names() -> None:
    root: Any = nn.Module()
    root.first = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    root.again, root.last = root.first, nn.Sequential(root.first[0])
    with under_all_names(root):
        root.first = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    assert root.again is root.first
    assert root.last[0] is root.first[0]
    assert root.first[0].out_features == 2


def test_modes_and_batch_norms_stay_and_new_layers_are_as_those_around_them() -> None:
    norm = nn.BatchNorm1d(1)
    norm.track_running_stats = False  # as finetuning freezes it
    block = nn.Sequential(nn.Linear(1, 1), norm)
    root = nn.Sequential(block, nn.Linear(1, 1))
    block.eval()
    block[0].train()
    with all_in_training(root):
        assert all(part.training for part in root.modules())
        assert norm.track_running_stats
        again = copy.copy(norm)  # of the same tensors, as torch makes it
        block[1] = fused = nn.Sequential(again, nn.ReLU())
    assert fused[0] is norm
    assert not norm.track_running_stats
    assert {name: part.training for name, part in root.named_modules()} == {
        **{"": True, "0": False, "0.0": True, "1": True},
        **{"0.1": False, "0.1.0": False, "0.1.1": False},
    }
