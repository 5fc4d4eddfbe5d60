"""Hyperparameters: read from the ``__init__`` that calls ``save_hyperparameters``, kept as an ``AttributeDict``."""

from __future__ import annotations

import copy
import inspect
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Never

from torch import nn

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hparams_encoding import encode
from leyden.rank_zero import rank_zero_warn

__all__ = ["AttributeDict", "HyperparametersMixin"]


class AttributeDict(dict[str, Any]):
    """A dict whose string keys are attributes too.

    Example:
        >>> hparams = AttributeDict(lr=0.1)
        >>> hparams.width = 32
        >>> hparams["lr"], hparams.width
        (0.1, 32)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            hint = did_you_mean(name, map(str, self))
            raise AttributeError(
                f"There is no {name!r} here; there are: {', '.join(map(str, self)) or 'none'}.{hint}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"There is no {name!r} to delete.{did_you_mean(name, map(str, self))}")
        del self[name]

    def __repr__(self) -> str:
        width = max((len(str(key)) for key in self), default=0) + 3
        return "\n".join(f"{f'{key!r}:':<{width}} {value!r}" for key, value in self.items())


class HyperparametersMixin:
    """Gives a class ``save_hyperparameters`` and ``hparams``.

    Example:
        >>> class Model(HyperparametersMixin):
        ...     def __init__(self, lr: float = 0.1, width: int = 32) -> None:
        ...         self.save_hyperparameters()
        >>> Model(lr=0.5).hparams.lr
        0.5
    """

    # No class annotations: TorchScript reads those of a module and fails on them.
    _hparams = None  # type: AttributeDict | None
    _hparams_initial = None  # type: AttributeDict | None
    _hparams_name = None  # type: str | None
    _hparams_type = None  # type: str | None
    _hparams_left_out = frozenset()  # type: frozenset[str]
    _log_hyperparams = False
    _hparams_keys = ("hyper_parameters", "hparams_name", "hparams_type")

    @property
    def hparams(self) -> AttributeDict:
        """The saved hyperparameters. What is changed here is in the next checkpoint."""
        if self._hparams is None:
            self._hparams = AttributeDict()
        return self._hparams

    @hparams.setter
    def hparams(self, given: Never) -> None:
        kind = type(self).__name__
        raise AttributeError(
            f"{kind}.hparams = ... cannot be set: it holds what save_hyperparameters() saves. Instead, write "
            f"self.save_hyperparameters(hparams) in {kind}.__init__."
        )

    @property
    def hparams_initial(self) -> AttributeDict:
        """A copy of the hyperparameters as they were saved, whatever happened to `hparams` since."""
        return _snapshot(self._hparams_initial or {})

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save the arguments of ``__init__`` to `hparams`, to checkpoints and, when training starts, to the loggers.

        To be called in ``__init__``, a dataclass's ``__post_init__``, or in what they call. Where several classes of
        an inheritance are being initialised, the arguments of all count, and the outermost class's value wins.

        Args:
            args: what to save: names of arguments, or the arguments themselves, or one dict or Namespace whose entries
                become the hyperparameters. Nothing: all arguments.
            ignore: names that are not saved, also where a parent class saved them.
            frame: the frame whose arguments to take instead of the caller's, for code that wraps this method.
            logger: whether loggers get them.

        Raises:
            MisconfigurationException: a name is no argument, or there is no ``__init__`` to take arguments from.
        """
        arguments = _collect_arguments(self, frame or sys._getframe(1), explicit=frame is not None)
        del frame  # a frame kept alive keeps every local of every caller
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        owner = type(self).__qualname__
        if len(args) == 1 and isinstance(args[0], Mapping | Namespace):
            given = args[0]
            name = next((name for name, value in (arguments or {}).items() if value is given), None)
            self._hparams_name = name or "kwargs"
            self._hparams_type = "Namespace" if isinstance(given, Namespace) else None
            values = dict(vars(given) if isinstance(given, Namespace) else given)
        elif arguments is None:
            raise MisconfigurationException(
                f"{owner}.save_hyperparameters was called where no __init__ of {owner} is running, so there are no "
                f"arguments to take. Call it in {owner}.__init__, or give the values: "
                "self.save_hyperparameters({'lr': 0.1})."
            )
        else:
            self._hparams_name, self._hparams_type = "kwargs", None
            values = {name: arguments[name] for name in _names(args, arguments, owner)} if args else arguments
        hparams = self.hparams
        hparams.update((name, value) for name, value in values.items() if name not in ignored)
        for name in ignored:
            hparams.pop(name, None)
        self._log_hyperparams = logger
        self._hparams_initial = _snapshot(hparams)
        self._warn_of_left_out()

    def checkpoint_hparams(self) -> dict[str, Any]:
        """Return what a checkpoint gets: the hyperparameters as plain data, and how ``__init__`` takes them."""
        if not self.hparams:
            return {}
        self._warn_of_left_out()
        key, name_key, type_key = self._hparams_keys
        values = encode(type(self), self.hparams)[0]
        entries = {key: values, name_key: self._hparams_name, type_key: self._hparams_type}
        return {key: value for key, value in entries.items() if value is not None}

    def _warn_of_left_out(self) -> None:
        """Name, once each, the hyperparameters that checkpoints leave out, when there is still time to change them."""
        owner = type(self).__qualname__
        for name, reason in encode(type(self), self.hparams)[1].items():
            if name not in self._hparams_left_out:
                self._hparams_left_out = self._hparams_left_out | {name}
                rank_zero_warn(
                    f"the hyperparameter {name!r} of {owner} stays out of checkpoints: {reason} "
                    f"To load one, give it: {owner}.load_from_checkpoint(path, {name}=...). Say that this is meant "
                    f" with self.save_hyperparameters(ignore=[{name!r}])."
                )


def _names(given: Sequence[Any], arguments: Mapping[str, Any], owner: str) -> list[str]:
    """Return the names of the arguments that `given` lists by name or by value."""
    names = []
    for item in given:
        name = (
            item if isinstance(item, str) else next((name for name, value in arguments.items() if value is item), None)
        )
        if name is None:
            raise MisconfigurationException(
                f"{owner}.save_hyperparameters got {item!r} ({type(item).__name__}), which is no argument of __init__. "
                "Give names of arguments, or one dict or Namespace."
            )
        if name not in arguments:
            raise MisconfigurationException(
                f"{owner}.save_hyperparameters got {name!r}, which is no argument of __init__; those are: "
                f"{', '.join(arguments) or 'none'}.{did_you_mean(name, arguments)}"
            )
        names.append(name)
    return names


def _collect_arguments(instance: object, frame: FrameType | None, explicit: bool) -> dict[str, Any] | None:
    """Return the arguments of every running ``__init__`` of `instance` from `frame` outwards; None when none runs.

    An outer frame belongs to a class further down the inheritance, the one to be built again from these values, so
    its arguments come last and win. Frames between them (decorators, ``__post_init__``) are passed over.
    """
    collected: dict[str, Any] | None = None
    while frame is not None:
        code = frame.f_code
        bound = bool(code.co_argcount) and frame.f_locals.get(code.co_varnames[0]) is instance
        if explicit or (bound and code.co_name == "__init__"):
            arguments = _arguments_of(frame, instance, skip=int(bound), innermost=collected is None)
            collected = (collected or {}) | arguments
        frame, explicit = frame.f_back, False
    return collected


def _arguments_of(frame: FrameType, instance: object, skip: int, innermost: bool) -> dict[str, Any]:
    """Return what the function in `frame` was called with: ``**kwargs`` by their names, ``*args`` as one tuple.

    A class that takes both hands them on to a parent; where that parent's frame was seen, its names for them are known.
    """
    names, varargs, keywords, values = inspect.getargvalues(frame)
    arguments = {name: _actual(values[name], instance, name) for name in names[skip:] if name in values}
    if varargs and values[varargs] and (innermost or not keywords):
        arguments[varargs] = tuple(values[varargs])
    if keywords:
        arguments |= values[keywords]
    return arguments


def _actual(value: Any, instance: object, name: str) -> Any:
    # A dataclass's __init__ gets a marker in place of a field's default factory; the field holds what came of it.
    return getattr(instance, name, None) if type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS" else value


def _snapshot(values: Mapping[str, Any]) -> AttributeDict:
    """Return a copy that changes to `values` do not reach; a layer or an uncopyable object is shared."""
    copied = AttributeDict()
    for name, value in values.items():
        try:
            copied[name] = value if isinstance(value, nn.Module) else copy.deepcopy(value)
        except Exception:  # whatever an object's own __deepcopy__ raises, a copy for the record is not worth a training
            copied[name] = value
    return copied
