"""What `pruning_fn` names: one of torch's methods or a class of the user's, and how masks are made with it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, prune

from leyden.arguments import is_int, is_number
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["METHODS", "Amount", "Method", "is_amount"]

Amount = int | float
METHODS: dict[str, type[Any]] = {
    "l1_unstructured": prune.L1Unstructured,
    "random_unstructured": prune.RandomUnstructured,
    "ln_structured": prune.LnStructured,
    "random_structured": prune.RandomStructured,
    "identity": prune.Identity,
}


def is_amount(value: object) -> bool:
    """Whether `value` is a count of at least 0, or a fraction from 0.0 to 1.0."""
    return value >= 0 if is_int(value) else is_number(value) and 0 <= value <= 1


@dataclass(frozen=True)
class Method:
    """A subclass of `torch.nn.utils.prune.BasePruningMethod` with the arguments it is made with, but for the amount.

    Attributes:
        arguments: ``n`` and ``dim``, where the class takes them.
        takes_amount: whether it takes ``amount``.
    """

    cls: type[Any]
    arguments: dict[str, Any]
    takes_amount: bool

    @property
    def name(self) -> str:
        """As users know it."""
        return next((name for name, cls in METHODS.items() if cls is self.cls), self.cls.__name__)

    @property
    def whole(self) -> bool:
        """Whether slices are pruned whole."""
        return bool(self.cls.PRUNING_TYPE == "structured")

    @property
    def dim(self) -> int | None:
        """The dimension whose slices are pruned whole, as far as that is known before a method is made."""
        if not self.whole:
            return None
        parameter = inspect.signature(self.cls.__init__).parameters.get("dim")
        default = getattr(self.cls, "dim", None) if parameter is None else parameter.default
        dim = self.arguments.get("dim", default)
        return dim if is_int(dim) else None

    @property
    def norm(self) -> Any:
        """The p of the norm by which torch's method compares slices; None of others."""
        return self.arguments.get("n") if issubclass(self.cls, prune.LnStructured) else None

    @classmethod
    def of(cls, pruning_fn: Any, use_global: bool, dim: Any, norm: Any) -> tuple[Method | None, list[str]]:
        """Return what the arguments of `ModelPruning` mean, and what is wrong with them."""
        if isinstance(pruning_fn, str):
            name = pruning_fn.lower()
            if name not in METHODS:
                listed = ", ".join(map(repr, METHODS))
                return None, [
                    f"pruning_fn={pruning_fn!r}: expected one of {listed}, or a subclass of "
                    f"torch.nn.utils.prune.BasePruningMethod.{did_you_mean(name, METHODS)}"
                ]
            chosen: type[Any] = METHODS[name]
        elif inspect.isclass(pruning_fn) and issubclass(pruning_fn, prune.BasePruningMethod):
            chosen = pruning_fn
        else:
            own = getattr(pruning_fn, "__name__", None)
            nearest = f". Give the name of this function, {own!r}" if own in METHODS else ""
            return None, [
                f"pruning_fn={pruning_fn!r}: expected a name or a subclass of torch.nn.utils.prune.BasePruningMethod "
                f"(the class, not an instance of it){nearest}"
            ]
        return cls._made_of(chosen, use_global, {"dim": dim, "n": norm})

    @classmethod
    def _made_of(cls, chosen: type[Any], use_global: bool, given: dict[str, Any]) -> tuple[Method | None, list[str]]:
        kind, problems = getattr(chosen, "PRUNING_TYPE", None), []
        if kind not in ("unstructured", "structured", "global"):
            problems.append(
                f"pruning_fn={chosen.__name__}: its PRUNING_TYPE is {kind!r}; set it on the class to 'unstructured', "
                "'structured' or 'global'"
            )
        elif use_global and kind != "unstructured":
            problems.append(
                f"pruning_fn={chosen.__name__}, use_global_unstructured=True: weights of all layers are compared one "
                f"by one by an unstructured method only, and this is {kind}. Set use_global_unstructured=False"
            )
        parameters = dict(list(inspect.signature(chosen.__init__).parameters.items())[1:])
        if chosen.__init__ is object.__init__:
            parameters = {}
        arguments = {name: value for name, value in given.items() if name in parameters and value is not None}
        for name, parameter in parameters.items():
            optional = parameter.default is not parameter.empty or parameter.kind in _COLLECTING
            optional = optional and not (name == "dim" and chosen in METHODS.values())  # torch's default is the last
            if optional or name == "amount" or name in arguments:
                continue
            if name in given:
                argument = {"dim": "pruning_dim", "n": "pruning_norm"}[name]
                problems.append(f"{argument}=None: {chosen.__name__} needs it: {_MEANT[argument]}")
            else:
                problems.append(
                    f"pruning_fn={chosen.__name__}: its __init__ needs {name!r}, which nobody would give it. Leave it "
                    "out or give it a default: amount, n and dim are given"
                )
        return cls(chosen, arguments, "amount" in parameters), problems

    def make(self, amount: Amount) -> prune.BasePruningMethod:
        """Return the method for one pruning."""
        method = self.cls(**self.arguments, **({"amount": amount} if self.takes_amount else {}))
        method._tensor_name = "weight"  # which containers compare
        assert isinstance(method, prune.BasePruningMethod)
        if self.whole and not is_int(getattr(method, "dim", None)):
            raise MisconfigurationException(
                f"{self.cls.__name__} is structured, but has no `dim`, which says along which dimension slices are "
                "pruned whole. Set self.dim in its __init__, or dim on the class."
            )
        return method

    def mask(self, weight: Tensor, mask: Tensor | None, amount: Amount) -> Tensor:
        """Return the mask that follows `mask`, None where nothing was pruned yet, as ``prune.*(module, name)`` does."""
        method = self.make(amount)
        if mask is None:
            new = method.compute_mask(weight, torch.ones_like(weight))  # type: ignore[no-untyped-call]
        else:
            new = prune.PruningContainer(method).compute_mask(weight, mask.clone())  # type: ignore[no-untyped-call]
        return self._checked(new, weight)

    def global_masks(self, weights: Sequence[Tensor], masks: Sequence[Tensor], amount: Amount) -> list[Tensor]:
        """Return the masks that follow `masks`, as ``prune.global_unstructured`` does."""
        container = prune.PruningContainer(self.make(amount))
        joined = container.compute_mask(parameters_to_vector(weights), parameters_to_vector(masks))  # type: ignore[no-untyped-call]
        parts = torch.split(self._checked(joined, joined), [weight.numel() for weight in weights])
        return [
            mask * part.view_as(weight).to(mask.dtype) for mask, part, weight in zip(masks, parts, weights, strict=True)
        ]

    def _checked(self, mask: Any, weight: Tensor) -> Tensor:
        if not isinstance(mask, Tensor) or mask.shape != weight.shape:
            seen = tuple(mask.shape) if isinstance(mask, Tensor) else mask
            raise MisconfigurationException(
                f"{self.cls.__name__}.compute_mask returned {seen!r:.80}; expected a tensor of 0 and 1 of the shape of "
                f"the weights, {tuple(weight.shape)}."
            )
        return mask.detach().to(weight.dtype)


_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MEANT = {
    "pruning_dim": "the dimension whose slices are pruned whole, 0 for the outputs of a layer",
    "pruning_norm": "the p of the norm by which slices are compared, such as 2 or float('inf')",
}
