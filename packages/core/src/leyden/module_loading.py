"""Building a module or datamodule again from a checkpoint."""

from __future__ import annotations

import inspect
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException, did_you_mean, with_article
from leyden.hparams import AttributeDict, HyperparametersMixin
from leyden.hparams_encoding import decode
from leyden.module_hooks import ModuleHooks
from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from typing import Self

    class_only = classmethod
else:

    class class_only(classmethod):
        """A classmethod that an instance refuses: its user takes the instance for what is changed."""

        def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
            bound = super().__get__(instance, owner)
            return bound if instance is None else _refusing(type(instance).__qualname__, self.__func__.__name__)


__all__ = ["LoadableModule", "build_from_checkpoint", "class_only", "read_checkpoint"]

H = TypeVar("H", bound=HyperparametersMixin)


class LoadableModule(ModuleHooks, HyperparametersMixin):
    """A module with `load_from_checkpoint`."""

    strict_loading = True

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build the module from a checkpoint: from its hyperparameters, then with its weights.

        Args:
            checkpoint_path: path, or an open binary file.
            map_location: where tensors go, as in ``torch.load``; by default where they were, or the CPU where there is
                no such device.
            hparams_file: YAML or JSON file whose hyperparameters replace the checkpoint's.
            strict: whether weights must fit exactly; by default the module's `strict_loading`.
            weights_only: False also loads what only pickle can, and runs code that the file brings: for trusted files.
            kwargs: arguments of ``__init__`` that replace, or are missing in, the hyperparameters.

        Raises:
            MisconfigurationException: the file is no checkpoint, an argument of ``__init__`` is missing or unknown.
            RuntimeError: the weights do not fit.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location, weights_only)
        weights = checkpoint.get("state_dict")
        if not isinstance(weights, Mapping):
            raise MisconfigurationException(
                f"{_shown(checkpoint_path)} has no 'state_dict', so it is no checkpoint of a training (it holds: "
                f"{', '.join(sorted(map(str, checkpoint))[:8]) or 'nothing'}). For bare weights use "
                f"{cls.__qualname__}(...).load_state_dict(torch.load(path))."
            )
        module = build_from_checkpoint(cls, checkpoint, hparams_file, kwargs)
        module.configure_model()
        module.on_load_checkpoint(checkpoint)
        device = next((value.device for value in weights.values() if isinstance(value, Tensor)), None)
        unmade = any(one.is_meta for one in module.parameters())  # layers without memory take that of the checkpoint
        if device is not None and not unmade:
            module.to(device)
        strict = module.strict_loading if strict is None else strict
        try:
            unfit = module.load_state_dict(checkpoint["state_dict"], strict=strict, assign=unmade)
        except RuntimeError as error:
            error.add_note(
                f"The weights are those of {_shown(checkpoint_path)}; strict=False passes over missing and "
                "unexpected ones."
            )
            raise
        for keys, what in ((unfit.missing_keys, "lacks"), (unfit.unexpected_keys, "has unknown")):
            if keys:
                rank_zero_warn(
                    f"the checkpoint {_shown(checkpoint_path)} {what} weights of {cls.__qualname__}: {', '.join(keys)}."
                )
        return module


def read_checkpoint(path: Any, map_location: Any, weights_only: bool | None) -> dict[str, Any]:
    """Return the checkpoint in a file, read without running what is in it unless `weights_only` is False."""
    from leyden.state import storage  # the state of a run stands above modules; only this call reaches up

    safe = weights_only is None or weights_only
    location = _where_there_is_one if map_location is None else map_location
    checkpoint = storage.load(path, map_location=location, weights_only=safe)
    if not isinstance(checkpoint, dict):
        raise MisconfigurationException(
            f"{_shown(path)} holds {with_article(type(checkpoint).__name__)}; expected a checkpoint, which is a dict."
        )
    return checkpoint


def build_from_checkpoint(
    cls: type[H],
    checkpoint: Mapping[str, Any],
    hparams_file: str | os.PathLike[str] | None,
    overrides: Mapping[str, Any],
) -> H:
    """Return ``cls`` called with the hyperparameters in `checkpoint`, or in `hparams_file`, and `overrides`."""
    key, name_key, type_key = cls._hparams_keys
    stored = checkpoint.get(key) or {} if hparams_file is None else _read_hparams(Path(hparams_file))
    parameters = _parameters(cls)
    named = {name: parameter for name, parameter in list(parameters.items())[1:] if parameter.kind not in _COLLECTING}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = dict(overrides)
    holder = checkpoint.get(name_key)
    if isinstance(holder, str) and holder in named:
        entries = AttributeDict(stored)
        entries.update((name, given.pop(name)) for name in list(given) if name not in named)
        values: dict[str, Any] = {holder: Namespace(**entries) if checkpoint.get(type_key) == "Namespace" else entries}
    else:
        values = decode(cls, stored)
        unknown = [] if takes_any else [name for name in given if name not in named]
        if unknown:
            raise MisconfigurationException(
                f"{cls.__qualname__}.load_from_checkpoint got {unknown[0]!r}, which {cls.__qualname__}.__init__ does "
                f"not take; it takes: {', '.join(named) or 'nothing'}.{did_you_mean(unknown[0], named)}"
            )
    values |= given
    _require(cls, named, values)
    positional, keywords = _split(parameters, values, takes_any)
    return cls(*positional, **keywords)


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    init: Callable[..., None] = cls.__init__  # type: ignore[misc]
    if sys.version_info >= (
        3,
        14,
    ):  # annotations are evaluated when asked for, and may name what only type checkers import
        from annotationlib import Format

        return inspect.signature(init, annotation_format=Format.FORWARDREF).parameters
    return inspect.signature(init).parameters


_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _require(cls: type, named: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> None:
    missing = [name for name, parameter in named.items() if parameter.default is parameter.empty and name not in values]
    if missing:
        raise MisconfigurationException(
            f"{cls.__qualname__}.__init__ needs {', '.join(missing)}, which the checkpoint's hyperparameters do not "
            f"have ({', '.join(map(str, values)) or 'there are none'}). Give {'it' if len(missing) == 1 else 'them'}: "
            f"{cls.__qualname__}.load_from_checkpoint(path, {', '.join(f'{name}=...' for name in missing)}). With "
            "self.save_hyperparameters() in __init__ they are in the next checkpoint."
        )


def _split(
    parameters: Mapping[str, inspect.Parameter], values: dict[str, Any], takes_any: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Return `values` as positional and keyword arguments: by keyword if possible, only what the signature takes."""
    extra = next((name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_POSITIONAL), None)
    extra = extra if extra in values else None
    positional: list[Any] = []
    keywords: dict[str, Any] = (
        dict(values) if takes_any else {name: values[name] for name in parameters if name in values}
    )
    for name, parameter in list(parameters.items())[1:]:
        before_extra = extra is not None and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if parameter.kind is parameter.POSITIONAL_ONLY or before_extra:
            positional.append(keywords.pop(name, parameter.default))
        elif name == extra:
            positional.extend(keywords.pop(name))
    return positional, keywords


def _read_hparams(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text)  # JSON is YAML too, and needs no other package
    except json.JSONDecodeError as error:
        if path.suffix == ".json":
            raise MisconfigurationException(f"hparams_file={str(path)!r} is no JSON: {error}.") from error
        values = _read_yaml(text, path)
    if not isinstance(values, dict):
        raise MisconfigurationException(
            f"hparams_file={str(path)!r} holds {with_article(type(values).__name__)}; expected names with their values."
        )
    return values


def _read_yaml(text: str, path: Path) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise ImportError(
            f"hparams_file={str(path)!r} is YAML: `pip install pyyaml` to read it, or give it as JSON."
        ) from error
    return yaml.safe_load(text) or {}


def _shown(path: Any) -> str:
    return repr(os.fspath(path)) if isinstance(path, str | os.PathLike) else repr(path)


def _where_there_is_one(storage: Any, location: str) -> Any:
    """Map tensors of a CUDA device that is not here to the CPU; None leaves the others where they were."""
    kind, _, index = location.partition(":")
    missing = kind == "cuda" and int(index or 0) >= torch.cuda.device_count()
    return storage if missing else None


def _refusing(owner: str, method: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{method} builds a new object: call it on the class, {owner}.{method}(...), and use what it returns."
        )

    return refuse
