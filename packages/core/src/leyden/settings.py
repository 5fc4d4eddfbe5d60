"""The Trainer's arguments, checked where they are given: an error at ``Trainer(...)``, not in hour three."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar

from leyden.arguments import is_int, is_number
from leyden.errors import MisconfigurationException

__all__ = ["Setting", "Settings"]

T = TypeVar("T")

_DEFAULT_MAX_EPOCHS = 1000


@dataclass(slots=True)
class Settings:
    """What the user asked for, in range and with defaults resolved. Batches and epochs count from one.

    Example:
        >>> Settings(max_epochs=3, limit_train_batches=0.5).max_epochs
        3
        >>> Settings(accumulate_grad_batches=0)
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: Trainer(accumulate_grad_batches=0): expected an int >= 1.
    """

    fast_dev_run: bool | int = False
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | timedelta | Mapping[str, int] | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: int | float | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    detect_anomaly: bool = False
    barebones: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0
    discover_callbacks: bool = True

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_batches()
        self._check_choices()
        if self.barebones:
            self._strip_to_barebones()
        self._fill_defaults()
        self._overfit()
        if self.fast_dev_run:
            self._shorten_for_development()

    def assign(self, name: str, value: Any) -> None:
        """Set `name` later on: with the checks and defaults of ``Trainer(...)``; what cannot work changes nothing."""
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            self._check_counts()
            self._check_batches()
            self._check_choices()
        except MisconfigurationException:
            setattr(self, name, before)
            raise
        self._fill_defaults()
        if name == "overfit_batches":
            self._overfit()

    def _check_counts(self) -> None:
        for name, low, optional in (
            ("max_epochs", -1, True),
            ("min_epochs", 0, True),
            ("max_steps", -1, False),
            ("min_steps", 0, True),
            ("check_val_every_n_epoch", 1, True),
            ("num_sanity_val_steps", -1, True),
            ("log_every_n_steps", 0, True),
            ("reload_dataloaders_every_n_epochs", 0, False),
        ):
            value = getattr(self, name)
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                or_none = " or None" if optional else ""
                raise _out_of_range(name, value, f"an int >= {low}{or_none}")
        if isinstance(self.accumulate_grad_batches, Mapping):
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={self.accumulate_grad_batches!r}): expected an int >= 1. For a "
                "factor that changes by epoch use the callback GradientAccumulationScheduler(scheduling=...) of "
                "leyden-callbacks-optim."
            )
        if not is_int(self.accumulate_grad_batches) or self.accumulate_grad_batches < 1:
            raise _out_of_range("accumulate_grad_batches", self.accumulate_grad_batches, "an int >= 1")
        if not isinstance(self.fast_dev_run, bool) and (not is_int(self.fast_dev_run) or self.fast_dev_run < 0):
            raise _out_of_range("fast_dev_run", self.fast_dev_run, "True, False or a number of batches >= 0")
        for low_name, high_name in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
            low_value, high_value = getattr(self, low_name), getattr(self, high_name)
            if low_value is not None and high_value is not None and high_value != -1 and low_value > high_value:
                raise MisconfigurationException(
                    f"Trainer({low_name}={low_value}, {high_name}={high_value}): the minimum is above the maximum; "
                    f"lower {low_name} or raise {high_name}."
                )

    def _check_batches(self) -> None:
        limits = (
            "limit_train_batches",
            "limit_val_batches",
            "limit_test_batches",
            "limit_predict_batches",
            "overfit_batches",
        )
        for name in limits:
            value = getattr(self, name)
            if value is None and name != "overfit_batches":
                continue
            if not _is_fraction(value) and not (is_int(value) and value >= 0):
                raise _out_of_range(
                    name, value, "a number of batches (int >= 0) or a fraction of them (float from 0.0 to 1.0)"
                )
        interval = self.val_check_interval
        if (
            interval is not None
            and not (_is_fraction(interval) and interval > 0)
            and not (is_int(interval) and interval >= 1)
        ):
            raise _out_of_range(
                "val_check_interval",
                interval,
                "a number of training batches (int >= 1) or a fraction of the epoch (0.0 < float <= 1.0)",
            )
        if self.check_val_every_n_epoch is None and isinstance(interval, float):
            raise MisconfigurationException(
                f"Trainer(val_check_interval={interval!r}, check_val_every_n_epoch=None) counts training batches "
                "across epochs, so val_check_interval must be an int; give a number of batches or "
                "set check_val_every_n_epoch=1."
            )
        clip = self.gradient_clip_val
        if clip is not None and (not is_number(clip) or not clip >= 0):
            raise _out_of_range("gradient_clip_val", clip, "a number >= 0 or None")

    def _check_choices(self) -> None:
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            raise _out_of_range("gradient_clip_algorithm", self.gradient_clip_algorithm, "'norm', 'value' or None")
        if self.deterministic not in (None, True, False, "warn"):
            raise _out_of_range("deterministic", self.deterministic, "True, False, 'warn' or None")
        for name in ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "benchmark"):
            if not isinstance(getattr(self, name), bool | None):
                raise _out_of_range(name, getattr(self, name), "True, False or None")
        flags = (
            "inference_mode",
            "use_distributed_sampler",
            "detect_anomaly",
            "barebones",
            "sync_batchnorm",
            "discover_callbacks",
        )
        for name in flags:
            if not isinstance(getattr(self, name), bool):
                raise _out_of_range(name, getattr(self, name), "True or False")

    def _strip_to_barebones(self) -> None:
        """Barebones is for measuring the loop: whatever else was asked for contradicts it."""
        for name, value in (
            ("enable_checkpointing", self.enable_checkpointing),
            ("enable_progress_bar", self.enable_progress_bar),
            ("enable_model_summary", self.enable_model_summary),
            ("num_sanity_val_steps", self.num_sanity_val_steps),
            ("fast_dev_run", self.fast_dev_run),
            ("detect_anomaly", self.detect_anomaly),
            ("log_every_n_steps", self.log_every_n_steps),
        ):
            if value:
                raise MisconfigurationException(
                    f"Trainer(barebones=True, {name}={value!r}): barebones runs the bare loop only; leave {name} out "
                    "or barebones off."
                )
        self.enable_checkpointing = self.enable_progress_bar = self.enable_model_summary = False
        self.num_sanity_val_steps = self.log_every_n_steps = 0

    def _fill_defaults(self) -> None:
        if self.max_epochs is None:
            # Without any limit a forgotten argument would train for ever; with another limit that one decides.
            unlimited = self.max_steps == -1 and self.max_time is None
            self.max_epochs = _DEFAULT_MAX_EPOCHS if unlimited else -1
        if self.min_epochs is None:
            self.min_epochs = 1 if self.min_steps else 0
        self.min_steps = self.min_steps or 0
        self.num_sanity_val_steps = 2 if self.num_sanity_val_steps is None else self.num_sanity_val_steps
        self.log_every_n_steps = 50 if self.log_every_n_steps is None else self.log_every_n_steps
        self.gradient_clip_val = self.gradient_clip_val or None

    def _overfit(self) -> None:
        if self.overfit_batches:
            self.limit_train_batches = self.limit_val_batches = self.overfit_batches

    def _shorten_for_development(self) -> None:
        batches = 1 if self.fast_dev_run is True else int(self.fast_dev_run)
        self.max_epochs, self.max_steps, self.min_epochs, self.min_steps = 1, batches, 0, 0
        self.num_sanity_val_steps = 0
        self.limit_train_batches = self.limit_val_batches = self.limit_test_batches = self.limit_predict_batches = (
            batches
        )
        self.val_check_interval, self.check_val_every_n_epoch = None, 1
        self.log_every_n_steps = 1

    @property
    def sanity_batches(self) -> int | float:
        """Validation batches before training; ``math.inf`` for all of them."""
        steps = self.num_sanity_val_steps
        return math.inf if steps == -1 else int(steps or 0)


class _HasSettings(Protocol):
    @property
    def settings(self) -> Settings: ...


class Setting(Generic[T]):
    """A property that is the setting of the same name; what is set is checked."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: _HasSettings, owner: type) -> T:
        value: T = getattr(instance.settings, self._name)
        return value

    def __set__(self, instance: _HasSettings, value: T) -> None:
        instance.settings.assign(self._name, value)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and 0.0 <= value <= 1.0


def _out_of_range(name: str, value: Any, expected: str) -> MisconfigurationException:
    return MisconfigurationException(f"Trainer({name}={value!r}): expected {expected}.")
