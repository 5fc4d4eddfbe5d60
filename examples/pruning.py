"""Prune a small CNN on scikit-learn's handwritten digits in several ways, and compare what is left of it.

Run it with ``python examples/pruning.py``.
"""

from __future__ import annotations

import argparse
import io
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from digits import Classifier, Digits

import leyden
from leyden.callbacks import ModelPruning
from leyden.tables import render_table

LAYERS = [("backbone.0", "weight"), ("backbone.4", "weight"), ("head.1", "weight")]
"""The convolutions and the head, without biases and BatchNorm."""


def gradually(epoch: int) -> float:
    """Prune 40 % of what is left after each of the epochs 2 to 6: 0.6 ** 5 leaves 8 %."""
    return 0.4 if 2 <= epoch <= 6 else 0.0


WAYS: dict[str, dict[str, Any] | None] = {
    "not pruned": None,
    "smallest": {"pruning_fn": "l1_unstructured", "use_lottery_ticket_hypothesis": False},
    "smallest, lottery ticket": {"pruning_fn": "l1_unstructured"},
    "at random": {"pruning_fn": "random_unstructured", "use_lottery_ticket_hypothesis": False},
    "channels": {
        "pruning_fn": "ln_structured",
        "pruning_norm": 2,
        "pruning_dim": 1,
        "parameters_to_prune": LAYERS[1:],
        "use_global_unstructured": False,
        "use_lottery_ticket_hypothesis": False,
        "amount": lambda epoch: 0.2 if 2 <= epoch <= 5 else 0.0,
    },
}


def train(arguments: Mapping[str, Any] | None, max_epochs: int) -> tuple[Classifier, float, float, float]:
    """Return the model, its accuracy on the test images, how much of it is pruned, and the seconds it took."""
    leyden.seed_everything(7)
    pruning = None
    if arguments is not None:
        pruning = ModelPruning(**{"parameters_to_prune": LAYERS, "amount": gradually, **arguments})
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        callbacks=[] if pruning is None else [pruning],
        discover_callbacks=False,
    )
    module, data = Classifier(), Digits()
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - start
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return module, metrics["test_acc"], 0.0 if pruning is None else pruning.total_sparsity(), seconds


def compressed_bytes(module: torch.nn.Module) -> int:
    """Return how large the file of the weights is once compressed: zeros take next to nothing then."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(zlib.compress(file.getvalue()))


def main(arguments: Sequence[str] | None = None) -> list[list[object]]:
    """Train once for each way, print and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-epochs", type=int, default=10, metavar="N")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    logging.getLogger("leyden").setLevel(logging.WARNING)
    rows: list[list[object]] = []
    for name, way in WAYS.items():
        module, accuracy, sparsity, seconds = train(way, options.max_epochs)
        kilobytes = compressed_bytes(module) / 1000
        rows.append([name, f"{accuracy:.1%}", f"{sparsity:.0%}", f"{kilobytes:.0f} kB", f"{seconds:.1f} s"])
    print(render_table(["pruned", "test accuracy", "sparsity", "compressed", "training"], rows))
    return rows


if __name__ == "__main__":
    main()
