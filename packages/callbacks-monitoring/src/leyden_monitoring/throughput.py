"""Rates over a moving window of batches, from running totals and a clock."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from leyden.arguments import check_arguments, is_count, is_positive

__all__ = ["Throughput", "check_throughput_arguments"]


class _Totals(NamedTuple):
    """What had been done at a moment; None for what nobody counts."""

    time: float
    batches: int
    samples: int | None
    lengths: int | None
    flops: float | None


class Throughput:
    """Batches, samples, items and floating point operations per second, of one device and of all.

    Give it totals as often as you like, once a batch or once a report; rates are over the last `window_size` batches,
    or since the update before where that is longer. Totals and rates of ``device/`` are of this process; those without
    are of all `world_size` devices, each of which is taken to do as much, and are left out where there is one.

    Time is measured by the caller and is what the rates are worth: CUDA runs behind the Python program, by a few steps
    at most, so over a window the clock needs no ``torch.cuda.synchronize()``; around a single batch it would.

    Args:
        available_flops: What one device could do, in operations per second; without it there is no ``device/mfu``.
        world_size: The number of devices.
        window_size: Batches that the rates are over.
        separator: What stands between ``device`` and the name of a rate.

    Example:
        >>> throughput = Throughput(available_flops=4e9, window_size=10)
        >>> for step in range(1, 4):  # 8 samples each half second
        ...     throughput.update(time=step / 2, batches=step, samples=8 * step, flops=1e9)
        >>> rates = throughput.compute()
        >>> rates["device/batches_per_sec"], rates["device/samples_per_sec"], rates["device/mfu"]
        (2.0, 16.0, 0.5)
        >>> rates["time"], rates["batches"], rates["samples"]
        (1.5, 3, 24)
    """

    def __init__(
        self,
        available_flops: float | None = None,
        world_size: int = 1,
        window_size: int = 100,
        separator: str = "/",
    ) -> None:
        check_throughput_arguments(type(self).__name__, available_flops, window_size, separator)
        check_arguments(type(self).__name__, ("world_size", world_size, is_count(world_size, least=1), "an int >= 1"))
        self.available_flops, self.world_size = available_flops, world_size
        self.window_size, self.separator = window_size, separator
        self._window: deque[_Totals] = deque()

    def update(
        self,
        *,
        time: float,
        batches: int,
        samples: int | None = None,
        lengths: int | None = None,
        flops: float | None = None,
    ) -> None:
        """Take what this device has done so far; `flops` alone is what it did since the update before.

        Args:
            time: seconds of work.
            batches: batches done.
            samples: samples in them; None where they are not counted.
            lengths: items in the samples, tokens for instance; None where they are not counted.
            flops: floating point operations since the update before; None where they are not known.

        Raises:
            ValueError: for a total that is smaller than before.
        """
        before = self._window[-1] if self._window else None
        if before is not None:
            if flops is not None:
                flops += before.flops or 0.0
            pairs = (("time", time), ("batches", batches), ("samples", samples), ("lengths", lengths))
            for (name, now), earlier in zip(pairs, before, strict=False):
                if now is not None and earlier is not None and now < earlier:
                    raise ValueError(
                        f"Throughput.update({name}={now}): it was {earlier} before, and is a total that cannot become "
                        "less. Give totals since the beginning, or call reset() when you begin anew."
                    )
        window = self._window
        window.append(_Totals(time, batches, samples, lengths, flops))
        while len(window) > 2 and batches - window[1].batches >= self.window_size:
            window.popleft()

    def compute(self) -> dict[str, float]:
        """Return totals by name and, from the second update on, rates; empty before the first."""
        if not self._window:
            return {}
        first, last = self._window[0], self._window[-1]
        metrics: dict[str, float] = {"time": last.time, "batches": last.batches}
        if last.samples is not None:
            metrics["samples"] = last.samples
        if last.lengths is not None:
            metrics["lengths"] = last.lengths
        elapsed = last.time - first.time
        if elapsed > 0:  # a clock may not have moved between two updates
            self._add_rates(metrics, first, last, elapsed)
        return metrics

    def _add_rates(self, metrics: dict[str, float], first: _Totals, last: _Totals, elapsed: float) -> None:
        device = f"device{self.separator}"
        totals = (
            ("batches", first.batches, last.batches),
            ("samples", first.samples, last.samples),
            ("items", first.lengths, last.lengths),
            ("flops", 0.0 if first.flops is None else first.flops, last.flops),
        )
        for name, begin, end in totals:
            if begin is None or end is None:
                continue
            rate = (end - begin) / elapsed
            metrics[f"{device}{name}_per_sec"] = rate
            if self.world_size > 1:
                metrics[f"{name}_per_sec"] = rate * self.world_size
            if name == "flops" and self.available_flops:
                metrics[f"{device}mfu"] = rate / self.available_flops

    def reset(self) -> None:
        """Forget the window: rates begin anew with the next update."""
        self._window.clear()


def check_throughput_arguments(owner: str, available_flops: object, window_size: object, separator: object) -> None:
    """Raise `MisconfigurationException` for what `Throughput` and `ThroughputMonitor` cannot work with."""
    peak_is_right = available_flops is None or is_positive(available_flops)
    check_arguments(
        owner,
        ("available_flops", available_flops, peak_is_right, "operations per second of one device, or None"),
        ("window_size", window_size, is_count(window_size, least=1), "an int >= 1"),
        ("separator", separator, isinstance(separator, str) and bool(separator), "a string that is not empty"),
    )
