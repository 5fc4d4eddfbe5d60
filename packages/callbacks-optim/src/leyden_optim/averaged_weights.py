"""A second copy of a module's weights: averaged by torch, and exchanged with the module's own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn, get_swa_multi_avg_fn

from leyden.errors import MisconfigurationException
from leyden.runtime.shards import as_like, is_shard, own_part, sharded_parts, with_own_part

__all__ = ["AveragedWeights"]

_MEAN_OF_ONE, _MEAN_OF_ALL = get_swa_avg_fn(), get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]

Place = tuple[dict[str, Any], str]
"""Where a module keeps a tensor, so that one that was put in its place is found: ``tensors, name``."""


class AveragedWeights:
    """Parameters and buffers of a module a second time, in torch's `AveragedModel`.

    The `AveragedModel` is one of a bare tree of the module's tensors: what else the module holds, such as datasets,
    metrics or a loss with its graph, is neither copied nor in the way of a copy. Names and order are the module's.
    Tensors of integers, such as indices and masks, are copied at each update: torch cuts the average of two fives to a
    four where rounding makes it less. The counts of BatchNorm alone are averaged as torch does.

    Of weights in shards each process averages its part, and gives it as a shard.

    Arguments that types don't explain:
        device: where the average is kept; None is beside each of the module's tensors, and follows it.
        updates: of how many updates the module has the average at present.
        averaging: for `AveragedModel`.

    Attributes:
        model: the `AveragedModel`; its ``module`` has the averaged tensors, or the module's own while `exchanged`.
        exchanged: whether the module has the averaged tensors at present.

    Example:
        >>> from torch.optim.swa_utils import get_ema_multi_avg_fn
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> weights = AveragedWeights(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        >>> for value in (1.0, 2.0):
        ...     with torch.no_grad():
        ...         _ = layer.weight.fill_(value)
        ...     weights.update()
        >>> weights.exchange()
        >>> layer.weight.item()
        1.5
    """

    def __init__(
        self, module: nn.Module, device: torch.device | str | int | None = None, *, updates: int = 0, **averaging: Any
    ) -> None:
        self.module = module
        self._follows_device = device is None
        self._parts = sharded_parts(module)
        self._give_back()
        self._in_parts = any(map(is_shard, module.parameters()))
        self.model = AveragedModel(_bare_tree(module), device=device, **averaging)  # type: ignore[arg-type]
        self.model.n_averaged = self._count = self.model.n_averaged.cpu()  # which the host asks for at each update
        self._count.fill_(updates)
        self._average = _average_of(self.model)
        self.exchanged = False
        self.settle()

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return int(self._count)

    def settle(self) -> None:
        """Find the module's tensors anew, and follow them to their device; whenever their places may have changed.

        Raises:
            MisconfigurationException: they have other names or shapes than those that are averaged.
        """
        self._parts = sharded_parts(self.module)
        self._give_back()
        own, averaged = _places(self.module), _places(self.model.module)
        if not self._in_parts and any(is_shard(tensors[name]) for tensors, name in own.values()):
            self._take_parts(own, averaged)
        now = {name: own_part(place[0][place[1]]).shape for name, place in own.items()}
        then = {name: place[0][place[1]].shape for name, place in averaged.items()}
        if now != then:
            changed = sorted({name for name, _ in now.items() ^ then.items()})
            raise MisconfigurationException(
                f"the weights of {type(self.module).__name__} cannot be averaged any more: {', '.join(changed[:5])}"
                f"{', …' if len(changed) > 5 else ''} came, went or changed shape since the average began. Make such "
                "changes before training, or in an epoch before the first update."
            )
        if self._follows_device:
            for name, (tensors, key) in averaged.items():
                device = own[name][0][own[name][1]].device
                if tensors[key].device != device:
                    tensors[key].data = tensors[key].data.to(device)
        # Detached once: a step's update makes no views of what does not change.
        self._pairs = [(own[name], tensors[key].detach()) for name, (tensors, key) in averaged.items()]
        self._copied: list[tuple[Place, Tensor]] = []
        self._groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Place]]] = {}
        for (place, tensor), (tensors, key) in zip(self._pairs, averaged.values(), strict=True):
            counts = self.model.use_buffers or isinstance(tensors[key], nn.Parameter)
            if counts and (_has_fractions(tensor) or key == "num_batches_tracked"):
                group, places = self._groups.setdefault((tensor.device, tensor.dtype), ([], []))
                group.append(tensor)
                places.append(place)
            else:
                self._copied.append((place, tensor))
        self._send_count()
        self._moves = any(tensor.device != tensors[key].device for (tensors, key), tensor in self._pairs)

    def _take_parts(self, own: dict[str, Place], averaged: dict[str, Place]) -> None:
        """Keep this process's part of what was whole until the module's weights came into shards."""
        self._in_parts = True
        for name, (tensors, key) in averaged.items():
            like = own[name][0][own[name][1]] if name in own else tensors[key]
            if is_shard(like) and like.shape == tensors[key].shape:
                whole = tensors[key].detach()
                tensors[key].data = own_part(as_like(whole, like)).to(whole.device)  # in place: it may be shared

    def _give_back(self) -> None:
        """Let the module have its shards in place of what is gathered."""
        for part in self._parts:
            part.reshard()

    def _current(self, places: list[Place]) -> list[Tensor]:
        if self._in_parts:
            return [own_part(tensors[name]) for tensors, name in places]
        return [tensors[name] for tensors, name in places]

    def update(self) -> None:
        """Take the module's weights into the average; the first time they are the average."""
        self._give_back()
        # As AveragedModel.update_parameters, which finds and groups all tensors each time: half as much again as the
        # update itself for a transformer, twice as much for a small network.
        with torch.no_grad():
            copied = self._pairs
            if self._count:
                copied = self._copied
                for (device, _), (averaged, places) in self._groups.items():
                    current = self._current(places)
                    if self._moves:
                        current = [tensor.to(device) for tensor in current]
                    self._average(averaged, current, self._counts[device])
            for (tensors, name), copy in copied:
                copy.copy_(own_part(tensors[name]) if self._in_parts else tensors[name])
            for each in self._counts.values():
                each += 1

    def _send_count(self) -> None:
        """Have the count on every device, where it goes up by itself: sending it makes the host wait."""
        self._counts = {
            device: self._count.to(device) for device in (self._count.device, *[d for d, _ in self._groups])
        }

    def exchange(self) -> None:
        """Put the averaged tensors into the module and the module's here, or back."""
        # Through .data: the two change places and neither is changed, which is nothing for autograd, or for whoever
        # looks whether weights were changed, to notice. One at a time: no third copy of a model.
        self._give_back()
        with _ctrl_c_put_off(), torch.no_grad():
            for (tensors, name), other in self._pairs:
                own = own_part(tensors[name]).data
                held = own.clone()
                own.copy_(other)
                other.data.copy_(held)
            self.exchanged = not self.exchanged

    def copies(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the trained and the averaged weights, both with the keys of the module's `state_dict`."""
        self._give_back()
        other = {id(tensors[name]): with_own_part(tensor, tensors[name]) for (tensors, name), tensor in self._pairs}
        of_module = self.module.state_dict(keep_vars=True)
        here = {key: other.get(id(value), value) for key, value in of_module.items()}
        here, there = ({key: _bare(value) for key, value in state.items()} for state in (here, of_module))
        return (here, there) if self.exchanged else (there, here)

    def state_dict(self) -> dict[str, Any]:
        """Return what `model` holds."""
        state = dict(self.model.state_dict())
        if self._in_parts:
            of_module = self.module.state_dict(keep_vars=True)
            names = {f"module.{name}": like for name, like in of_module.items()}
            state |= {name: with_own_part(one, names[name]) for name, one in state.items() if name in names}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, whole or in parts."""
        if self._in_parts:
            of_module = self.module.state_dict(keep_vars=True)
            parts = {f"module.{name}": like for name, like in of_module.items()}
            state = {name: own_part(as_like(one, parts[name])) if name in parts else one for name, one in state.items()}
        self.model.load_state_dict(state)


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Let KeyboardInterrupt wait for the end of this context: a module with half of each copy is no use to anyone."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _average_of(model: AveragedModel) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Return how `model` averages lists of tensors in place."""
    if model.multi_avg_fn is not None:
        return model.multi_avg_fn
    return _mean if model.avg_fn is None else partial(_one_by_one, model.avg_fn)


def _mean(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
    """Average as torch does where it is told nothing: all at once but on the CPU."""
    if averaged[0].device.type != "cpu" and _has_fractions(averaged[0]):
        _MEAN_OF_ALL(averaged, current, count)
    else:
        _one_by_one(_MEAN_OF_ONE, averaged, current, count)


def _one_by_one(average: Callable[..., Tensor], averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
    for one, tensor in zip(averaged, current, strict=True):
        one.copy_(average(one, tensor, count))


def _bare(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _places(module: nn.Module) -> dict[str, Place]:
    """Return the places of parameters, then of buffers, each tensor once, by name.

    Expanded ones, of which no element can be changed for itself, are constants, and left as they are.
    """
    places: dict[str, Place] = {}
    seen: set[int] = set()
    for kind in ("_parameters", "_buffers"):
        for prefix, part in module.named_modules():
            tensors = getattr(part, kind)
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in seen and not _is_expanded(tensor):
                    seen.add(id(tensor))
                    places[f"{prefix}.{name}" if prefix else name] = (tensors, name)
    return places


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _bare_tree(module: nn.Module) -> nn.Module:
    """Return modules that hold the tensors of `module` and nothing else; a deep copy of it copies just these."""
    detached: dict[int, Tensor | None] = {id(None): None}
    parts: dict[int, nn.Parameter] = {}
    trees: dict[int, nn.Module] = {}
    for part in module.modules():
        trees[id(part)] = bare = nn.Module()
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) not in parts:
                grads = parameter.requires_grad
                parts[id(parameter)] = nn.Parameter(own_part(parameter), grads) if is_shard(parameter) else parameter
            bare._parameters[name] = None if parameter is None else parts[id(parameter)]
        for name, buffer in part._buffers.items():  # detached: one that was computed is not a leaf, and not copied
            if id(buffer) not in detached:
                detached[id(buffer)] = None if buffer is None else buffer.detach()
            bare.register_buffer(name, detached[id(buffer)], persistent=name not in part._non_persistent_buffers_set)
    for part in module.modules():
        children = part._modules.items()
        trees[id(part)]._modules.update({name: None if child is None else trees[id(child)] for name, child in children})
    return trees[id(module)]
