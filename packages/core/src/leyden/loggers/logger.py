"""What a logger is: the methods that a run calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Logger", "as_dict"]


class Logger(ABC):
    """Base of loggers.

    A run calls `log_hyperparams` once, `log_graph` before a training, `log_metrics` when due, `save` at the ends of
    epochs and validations, and `finalize` at its end.

    Only the process with global rank 0 should write; the methods are called in every process.

    Example:
        >>> class Printer(Logger):
        ...     name, version = "printer", 0
        ...
        ...     def log_metrics(self, metrics, step=None):
        ...         print(step, metrics)
        ...
        ...     def log_hyperparams(self, params, *args, **kwargs):
        ...         print(params)
        >>> Printer().log_metrics({"loss": 0.5}, step=3)
        3 {'loss': 0.5}
    """

    @property
    @abstractmethod
    def name(self) -> str | None:
        """Name of the experiment."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """Which run of the experiment this is."""

    @property
    def save_dir(self) -> str | None:
        """Folder under which the logger writes; ``None`` for one that writes no files."""
        return None

    @property
    def root_dir(self) -> str | None:
        """Folder of all versions of this experiment."""
        return None

    @property
    def log_dir(self) -> str | None:
        """Folder of this run."""
        return None

    @property
    def group_separator(self) -> str:
        """What stands between a group and a metric in a name."""
        return "/"

    @property
    def experiment(self) -> Any:
        """The object of the library that writes, for what this class does not cover."""
        return None

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write metrics computed at `step`."""

    @abstractmethod
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write the run's hyperparameters."""

    # What follows may be left as it is: not every logger has graphs, files or a state.

    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:  # noqa: B027
        """Write the model's graph, where the logger can show one."""

    def agree(self, broadcast: Callable[[Any], Any]) -> None:  # noqa: B027
        """Take from the first process what each would choose for itself, such as the number of a folder.

        Called in every process, with several, as an entry point begins: `broadcast` returns the first one's object.
        """

    def save(self) -> None:  # noqa: B027
        """Write out what is held back."""

    def finalize(self, status: str) -> None:
        """End the run: `status` is "success" or "failed"."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:  # noqa: B027
        """Learn that `checkpoint_callback` has written a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; an empty dict is not stored."""
        return {}

    def mark(self) -> dict[str, Any]:
        """Return what of `state_dict` changes with what is logged, as it is now; it is asked often, so write nothing.

        After an exception a run goes on with the state of an earlier moment: ``{**state_dict(), **mark}``.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` returned."""


def as_dict(params: Mapping[str, Any] | Namespace | None) -> dict[str, Any]:
    """Return hyperparameters as a dict, whatever they came in."""
    if params is None:
        return {}
    return dict(vars(params)) if isinstance(params, Namespace) else dict(params)
