"""One seed for every random number generator, and generators left as they were found."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from leyden.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

__all__ = ["checked_seed", "isolate_rng", "seed_everything", "seed_generators", "worker_init_fn"]

SEED_VARIABLE = "LEYDEN_SEED"
WORKERS_VARIABLE = "LEYDEN_SEED_WORKERS"
_LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed Python's, NumPy's and torch's generators (all devices) and return the seed.

    Without `seed` the environment variable ``LEYDEN_SEED`` gives it, and without that it is 0, with a warning. The seed
    is put into that variable, so that processes started from here use it too. With `workers` every worker process of
    a `DataLoader` without its own `worker_init_fn` gets seeds of its own, which differ between ranks too.

    Raises:
        ValueError: the seed is not a whole number from 0 to 4294967295.

    Example:
        >>> seed_everything(7, verbose=False)
        7
    """
    if seed is None:
        given: object = os.environ.get(SEED_VARIABLE)
        if given is None:
            rank_zero_warn(f"seed_everything() got no seed and {SEED_VARIABLE} is not set: using seed 0. Pass a seed.")
            given = 0
    else:
        given = seed
    seed = checked_seed(given)
    if verbose:
        rank_zero_info(f"Seed set to {seed}")
    os.environ[SEED_VARIABLE] = str(seed)
    os.environ[WORKERS_VARIABLE] = str(int(bool(workers)))
    seed_generators(seed)
    return seed


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's (if it is installed) and torch's generators, and nothing else."""
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        import numpy as np
    except ImportError:
        return
    np.random.seed(seed % 2**32)


def checked_seed(given: object) -> int:
    """Return a seed, also one given as text; raise a `ValueError` for what is none."""
    try:
        seed = int(given) if isinstance(given, str) else int(given.__index__())  # type: ignore[attr-defined]
    except (ValueError, TypeError, AttributeError):
        seed = -1
    if isinstance(given, bool) or not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(
            f"A seed must be a whole number from 0 to {_LARGEST_SEED}; got {given!r}. "
            f"Change seed_everything(seed) or the environment variable {SEED_VARIABLE}."
        )
    return seed


def worker_init_fn(worker_id: int, rank: int | None = None) -> None:
    """Seed the generators of one `DataLoader` worker from the loader's base seed, its number and the process's rank.

    torch alone mixes base seed and worker number; with several processes seeded alike, worker 0 of each would draw the
    same augmentations. `rank` is the global rank, `rank_zero_only.rank` when it is not given.
    """
    rank = rank_zero_only.rank if rank is None else rank
    base_seed = torch.initial_seed() - worker_id
    digest = hashlib.blake2b(f"{base_seed} {worker_id} {rank}".encode(), digest_size=24).digest()
    for_torch, for_python, for_numpy = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8, 16))
    torch.manual_seed(for_torch)
    random.seed(for_python)
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(for_numpy % 2**32)


@contextmanager
def isolate_rng(include_cuda: bool = True) -> Iterator[None]:
    """Leave the generators of Python, NumPy and torch as they were, whatever is drawn inside.

    CUDA generators are included where CUDA is in use already, unless `include_cuda` is False.

    Example:
        >>> _ = torch.manual_seed(1)
        >>> with isolate_rng():
        ...     first = torch.rand(3)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    put_back: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if "numpy" in sys.modules:
        import numpy as np

        put_back.append(partial(np.random.set_state, np.random.get_state()))
    if include_cuda and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        put_back.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    try:
        yield
    finally:
        for restore in put_back:
            restore()
