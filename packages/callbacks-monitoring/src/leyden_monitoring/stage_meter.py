"""The totals of one stage of a run and its clock."""

from __future__ import annotations

from typing import Any

from leyden_monitoring.throughput import Throughput

__all__ = ["StageMeter"]


class StageMeter:
    """Counts what one stage does; its clock stands still while the stage does not run.

    Attributes:
        batches: batches done, in the run.
        samples: samples in them.
        lengths: items in the samples.
        flops: floating point operations since the last update.
        flops_of: the module to ask for its operations per batch; None where it does not know them.
        has_sizes: whether the number of samples of a batch can be told.
        reported_at: `batches` at the last update.

    Example:
        >>> meter = StageMeter(Throughput(), counts_lengths=False)
        >>> meter.start(10.0)
        >>> meter.batches, meter.samples = 2, 8
        >>> meter.stop(11.0)
        >>> meter.start(50.0)
        >>> meter.update(51.0)
        >>> meter.throughput.compute()["device/samples_per_sec"]
        4.0
    """

    __slots__ = (
        "_before_s", "_counts_lengths", "_since", "_started", "batches", "flops", "flops_of", "has_sizes", "lengths",
        "reported_at", "samples", "throughput",
    )  # fmt: skip

    def __init__(self, throughput: Throughput, *, counts_lengths: bool) -> None:
        self.throughput = throughput
        self.batches = self.samples = self.lengths = self.reported_at = 0
        self.flops = 0.0
        self.flops_of: Any = None
        self.has_sizes = True
        self._counts_lengths = counts_lengths
        self._before_s, self._since = 0.0, None  # type: float, float | None
        self._started = False

    def start(self, now: float) -> None:
        """The stage runs, from the clock's reading `now` on; where it runs already nothing happens."""
        if self._since is None:
            self._since = now
        if not self._started:  # rates begin here, whatever totals an earlier process left
            self._started = True
            self.update(now)

    def stop(self, now: float) -> None:
        """The stage pauses or is over."""
        self._before_s, self._since = self.elapsed(now), None

    def elapsed(self, now: float) -> float:
        """Return the seconds that the stage has run."""
        return self._before_s + (0.0 if self._since is None else now - self._since)

    def update(self, now: float) -> None:
        """Give the totals to `throughput`."""
        self.throughput.update(
            time=self.elapsed(now),
            batches=self.batches,
            samples=self.samples if self.has_sizes else None,
            lengths=self.lengths if self._counts_lengths else None,
            flops=None if self.flops_of is None else self.flops,
        )
        self.flops, self.reported_at = 0.0, self.batches

    def state_dict(self, now: float) -> dict[str, Any]:
        """Return the totals, as plain data."""
        samples = self.samples if self.has_sizes else None
        return {"time": self.elapsed(now), "batches": self.batches, "samples": samples, "lengths": self.lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over totals; the clock is not running yet."""
        self._before_s, self.batches, self.lengths = state["time"], state["batches"], state["lengths"]
        self.has_sizes = state["samples"] is not None
        self.samples, self.reported_at = state["samples"] or 0, self.batches
