"""BatchNorm over several processes: converted where it can run, refused where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leyden import MisconfigurationException, Trainer
from leyden.runtime.batchnorm import synchronise_batchnorm
from leyden.runtime.strategy import Strategy


class Two(Strategy):
    world_size = 2


def test_two_processes_on_cpus_are_refused_at_the_trainer() -> None:
    with pytest.raises(MisconfigurationException, match=r"SyncBatchNorm runs on CUDA devices only\. Leave it out"):
        Trainer(sync_batchnorm=True, strategy=Two(), accelerator="cpu", logger=False, discover_callbacks=False)


def test_one_process_may_ask_for_it_anywhere() -> None:
    trainer = Trainer(sync_batchnorm=True, accelerator="cpu", logger=False, discover_callbacks=False)
    assert (trainer.settings.sync_batchnorm, trainer.world_size) == (True, 1)


def test_layers_are_converted_once_with_their_weights() -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Sequential(nn.BatchNorm1d(2), nn.GroupNorm(1, 2)))
    inner: Any = net[1]
    weight, before = inner[0].weight, {name: one.clone() for name, one in net.state_dict().items()}
    synchronise_batchnorm(net)
    converted = inner[0]
    assert isinstance(converted, nn.SyncBatchNorm)
    assert converted.weight is weight
    torch.testing.assert_close(dict(net.state_dict()), before)
    synchronise_batchnorm(net)
    assert inner[0] is converted
    batch = torch.randn(4, 1, 3)
    assert net.eval()(batch).shape == (4, 2, 3)  # also where there is no CUDA device
