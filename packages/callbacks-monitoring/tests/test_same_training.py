"""A training draws the same random numbers with what watches it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import random, sys
import numpy, torch
from leyden import Trainer
from leyden.testing.models import BoringModule
from leyden_monitoring import {name}

assert "rich" not in sys.modules
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
before = random.getstate(), numpy.random.get_state()[1].tolist()
{made}
trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=callbacks)
trainer.fit(BoringModule())
assert "rich.style" in sys.modules  # draws when it is imported
assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before
"""


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("RichModelSummary", "callbacks = [RichModelSummary()]"),
        ("RichProgressBar", "callbacks = [RichProgressBar(console_kwargs={'force_terminal': True, 'width': 60})]"),
        ("RichProgressBarTheme", "callbacks = [] if RichProgressBarTheme(time='bold') else None"),
    ],
)
def test_import_of_rich_draws_nothing_from_the_training(name: str, made: str) -> None:
    script = SCRIPT.format(name=name, made=made)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
