"""Looks at what each hook of a callback does to the run: what it changes, and where it waits for the device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from leyden.hooks.binding import Call
from leyden.state.rng import collect_rng
from leyden.testing.costs import EVERY_BATCH
from leyden.testing.differences import first_difference

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.testing.runs import Exam, Watch
    from leyden.trainer import Trainer

__all__ = ["Watching"]

_READS = {
    "item", "tolist", "numpy", "cpu", "nonzero", "is_nonzero", "equal", "allclose", "masked_select", "unique",
    "__float__", "__int__", "__bool__", "__index__", "__complex__", "__array__", "__repr__", "__format__",
    "argwhere", "unique_consecutive", "bincount", "__contains__",
}  # fmt: skip
"""Functions and methods of tensors that need their values, or how many there are, on the CPU."""

_READS_INSIDE = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2"}
"""The same among the operations that functions of torch are made of."""

_COPIES = {"copy_", "__setitem__"}
"""What writes into a tensor on the CPU from one on the device, too, and then waits."""

_MAKES = {
    "tensor", "as_tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "rand", "randn", "randint",
    "randperm", "scalar_tensor", "from_numpy", "frombuffer", "eye",
}  # fmt: skip


class Watching:
    """Wraps the hooks of one callback.

    Tensors that the callback makes on the CPU itself, and those that it computes from these alone, are read without
    waiting for anything; all others count as the device's, wherever they are in this run.

    Attributes:
        changes: what hooks changed, in words.
        waits: which hooks read values of tensors off the reporting steps, in words.
    """

    def __init__(self, exam: Exam) -> None:
        self._exam = exam
        # "here" is on the CPU in any run; "here and there" was given a device: in this run the tensor that stays on
        # the CPU in any other and the one that is moved are the same.
        self._own = WeakTensorKeyDictionary()
        self.changes: list[str] = []
        self.waits: list[str] = []
        self._hook = ""

    def made(self, make: Callable[[], Callback]) -> Callback:
        """Return what `make` does, with its tensors known as its own."""
        with self._modes(waits=False):
            return make()

    def watch(self, callback: Callback) -> Watch:
        """Return what wraps the hooks of `callback`."""

        def wrap(owner: object, hook: str, call: Call) -> Call:
            return self._watched(hook, call, callback) if owner is callback else call

        return wrap

    def _watched(self, hook: str, call: Call, callback: Callback) -> Call:
        def watched(*args: Any) -> Any:
            reference = callback._trainer_ref
            trainer = None if reference is None else reference()
            if trainer is None or hook in ("state_dict", "load_state_dict"):
                return call(*args)
            before, hooks = _of_run(trainer), set() if hook in EVERY_BATCH else _hooks_of_parts(trainer)
            with self._modes(waits=hook in EVERY_BATCH and not self._reports(trainer, hook, args)):
                self._hook = hook
                result = call(*args)
            if differs := first_difference(_of_run(trainer), before):
                self.changes.append(f"{hook} changes {_in_words(differs)}")
            if hook not in EVERY_BATCH:
                self._watch_hooks_of_parts(trainer, hooks)
            return result

        return watched

    def _watch_hooks_of_parts(self, trainer: Trainer, before: set[_Place]) -> None:
        """Look at what the callback has registered with the module, as at its own hooks."""
        for place in _hooks_of_parts(trainer) - before:
            place.hooks[place.key] = self._watched_inside(place.hooks[place.key], trainer)

    def _watched_inside(self, function: Callable[..., Any], trainer: Trainer) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            outer = self._hook
            self._hook = f"{function.__qualname__}, a hook of the module,"
            try:
                with self._modes(waits=trainer.training and not self._exam.is_reporting(trainer)):
                    return function(*args, **kwargs)
            finally:
                self._hook = outer

        return watched

    def _reports(self, trainer: Trainer, hook: str, args: tuple[Any, ...]) -> bool:
        if "_batch_" in hook and "train" not in hook and hook not in ("on_batch_start", "on_batch_end"):
            index = args[2 if hook.endswith("_end") else 1]
            return any(count % self._exam.every_n_steps == 0 for count in (index, index + 1))
        return self._exam.is_reporting(trainer)

    @contextmanager
    def _modes(self, *, waits: bool) -> Iterator[None]:
        with _Functions(self._called, waits), _Operations(self._operated, waits):
            yield

    # -- what the modes see -----------------------------------------------------------------------------------------

    def _called(self, function: Callable[..., Any], args: Any, kwargs: Any, waits: bool) -> Any:
        name = getattr(function, "__name__", "")
        if waits and self._reads(name, args, kwargs) and any(map(self._is_of_device, _tensors((args, kwargs)))):
            self._note(f"Tensor.{name}" if isinstance(next(iter(args), None), Tensor) else f"torch.{name}")
        result = function(*args, **kwargs)
        self._remember(name, args, kwargs, result)
        return result

    def _reads(self, name: str, args: Any, kwargs: Any) -> bool:
        if name == "to":
            return _is_to_cpu(args, kwargs) and not kwargs.get("non_blocking")
        if name in _COPIES:
            return args[0] in self._own and self._own[args[0]] == "here" and not kwargs.get("non_blocking")
        if name in ("tensor", "as_tensor"):
            return bool(args) and isinstance(args[0], (list, tuple))
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in index)
        return name in _READS or (name == "where" and len(args) == 1)

    def _operated(self, operation: Any, args: Any, kwargs: Any, waits: bool) -> Any:
        name = operation.overloadpacket.__name__
        if waits and name in _READS_INSIDE and any(map(self._is_of_device, _tensors((args, kwargs)))):
            self._note(f"aten.{name}")
        result = operation(*args, **kwargs)
        self._remember(name, args, kwargs, result)
        return result

    def _is_to_device(self, args: Any, kwargs: Any) -> bool:
        """Whether `Tensor.to` is called with a device that may be that of the run, or with a tensor that is there."""
        return any(
            isinstance(one, torch.device) or (isinstance(one, Tensor) and self._is_of_device(one))
            for one in (*args[1:2], kwargs.get("device"), kwargs.get("other"))
        )

    def _is_of_device(self, tensor: Tensor) -> bool:
        return tensor not in self._own

    def _remember(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Note which tensors are on the CPU in any run: made there, or copied there, or computed from such."""
        inputs = list(_tensors((args, kwargs)))
        device = kwargs.get("device")
        if name == "to" and result is args[0] and not self._is_of_device(result) and self._is_to_device(args, kwargs):
            self._own[result] = "here and there"
            return
        changed = args[0] if name == "__setitem__" else result
        if any(changed is one for one in inputs) and any(map(self._is_of_device, inputs)):
            if changed in self._own and (name not in _COPIES or self._own[changed] != "here"):
                del self._own[changed]  # tensors of two devices cannot be computed with: it was moved
            return
        made = name in _MAKES and (device is None or device == "cpu") and not inputs
        copied = name in ("cpu", "numpy") or (name == "to" and _is_to_cpu(args, kwargs))
        if made or copied or (inputs and not any(map(self._is_of_device, inputs))):
            for tensor in _tensors(result):
                if not any(tensor is one for one in inputs):
                    self._own[tensor] = "here"

    def _note(self, what: str) -> None:
        place = _place()
        if place == _IN_LOG:  # which reads what is on the CPU, and keeps what is on a device for later
            return
        sentence = f"{self._hook} waits for the device in {what}{f' ({place})' if place else ''}"
        if sentence not in self.waits and not any(place and place in one for one in self.waits):
            self.waits.append(sentence)


@dataclass(frozen=True)
class _Place:
    """Where a module, or a parameter, has a hook."""

    key: int
    hooks: dict[int, Any] = field(compare=False)


def _hooks_of_parts(trainer: Trainer) -> set[_Place]:
    """Return where functions are registered with the parts of the module and its parameters, but for torch's own."""
    module = trainer.lightning_module
    dicts = [hooks for part in module.modules() for kind, hooks in vars(part).items() if kind.endswith("_hooks")]
    dicts += [parameter._backward_hooks for parameter in module.parameters()]
    return {
        _Place(key, hooks)
        for hooks in dicts
        if isinstance(hooks, dict)
        for key, function in hooks.items()
        if isinstance(function, (FunctionType, MethodType)) and not str(function.__module__).startswith("torch")
    }


class _Functions(TorchFunctionMode):
    def __init__(self, called: Callable[..., Any], waits: bool) -> None:
        super().__init__()
        self._called, self._waits = called, waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._called(func, args, kwargs or {}, self._waits)


class _Operations(TorchDispatchMode):
    def __init__(self, operated: Callable[..., Any], waits: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operated, self._waits = operated, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._operated(func, args, kwargs or {}, self._waits)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _is_to_cpu(args: Any, kwargs: Any) -> bool:
    """Whether `Tensor.to` names the CPU: by text alone, since a torch.device may be that of the run, the CPU here."""
    return any(isinstance(one, str) and one == "cpu" for one in (*args[1:2], kwargs.get("device")))


def _place() -> str:
    """Return ``file:line`` of the innermost frame below the hook that is neither torch's nor this module's.

    That is `_IN_LOG` where it belongs to ``self.log``.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file.startswith(_LOGGING):
            return _IN_LOG
        if frame.f_code.co_name == "watched" and file == __file__:
            return ""
        if file != __file__ and not file.startswith(_TORCH) and not file.endswith("contextlib.py"):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_TORCH = str(Path(torch.__file__).parent)
_LOGGING = str(Path(__file__).parents[1] / "logging")
_IN_LOG = "self.log"


def _of_run(trainer: Trainer) -> dict[str, Any]:
    """Return copies of all that a callback which only watches leaves alone."""
    module = trainer.lightning_module
    return {
        "random numbers": collect_rng(),
        "weights": {name: one.detach().clone() for name, one in module.named_parameters()},
        "buffers": {name: one.detach().clone() for name, one in module.named_buffers()},
        "gradients": {name: None if one.grad is None else one.grad.clone() for name, one in module.named_parameters()},
        "requires_grad": {name: one.requires_grad for name, one in module.named_parameters()},
        "training modes": {name: part.training for name, part in module.named_modules()},
        "parts": [f"{name}: {type(part).__name__}" for name, part in module.named_modules()],
        "optimizers": [_of_optimizer(optimizer) for optimizer in trainer.optimizers],
    }


def _of_optimizer(optimizer: Any) -> dict[str, Any]:
    state = {
        str(index): {name: one.clone() if isinstance(one, Tensor) else one for name, one in of_parameter.items()}
        for index, of_parameter in enumerate(optimizer.state.values())
    }
    groups = [{name: one for name, one in group.items() if name != "params"} for group in optimizer.param_groups]
    return {"state": state, "groups": groups, "sizes": [len(group["params"]) for group in optimizer.param_groups]}


def _in_words(differs: str) -> str:
    what = differs.split("]", maxsplit=1)[0].strip("['")
    if what == "random numbers":
        return "the state of a random number generator"
    return f"{what} ({differs})"
