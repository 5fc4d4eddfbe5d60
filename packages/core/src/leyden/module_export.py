"""A module as TorchScript or ONNX."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from leyden.errors import MisconfigurationException
from leyden.module_attachment import AttachedModule

__all__ = ["ModuleExport"]


class ModuleExport(AttachedModule):
    """Exports of the module's `forward`; the module is left as it was."""

    example_input_array = None  # type: Any

    def to_torchscript(
        self,
        file_path: str | os.PathLike[str] | None = None,
        method: str = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the module as a ``torch.jit.ScriptModule`` in evaluation mode, and save it when a path is given.

        Args:
            file_path: where to save it.
            method: "script" compiles the source of `forward`, "trace" records it on an example.
            example_inputs: input of `forward` to trace with; by default `example_input_array`.
            kwargs: for ``torch.jit.script`` or ``torch.jit.trace``.
        """
        if method not in ("script", "trace"):
            raise MisconfigurationException(f"to_torchscript(method={method!r}): expected 'script' or 'trace'.")
        with self._ready_for_export():
            if method == "script":
                scripted = torch.jit.script(self, **kwargs)
            else:
                args, keywords = self._example(example_inputs, "to_torchscript(method='trace')", "example_inputs")
                inputs = {"example_kwarg_inputs": keywords} if keywords else {"example_inputs": args}
                scripted = torch.jit.trace(self, **inputs, **kwargs)  # type: ignore[no-untyped-call]
        if file_path is not None:
            torch.jit.save(scripted, os.fspath(file_path))
        return scripted

    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export the module with ``torch.onnx.export`` on an input, by default `example_input_array`.

        Returns:
            What ``torch.onnx.export`` returns: a program with the current exporter, None with ``dynamo=False``.

        Raises:
            ModuleNotFoundError: the exporter's packages are not installed.
        """
        needed = ("onnx", "onnxscript") if kwargs.get("dynamo", True) else ("onnx",)
        missing = [package for package in needed if find_spec(package) is None]
        if missing:
            raise ModuleNotFoundError(f"to_onnx needs {' and '.join(missing)}: `pip install {' '.join(missing)}`.")
        args, keywords = self._example(input_sample, "to_onnx", "input_sample")
        with self._ready_for_export():
            return torch.onnx.export(self, args, file_path, kwargs=keywords, **kwargs)

    def _example(self, given: Any, caller: str, argument: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments to export with, on the module's device."""
        from leyden.data.transfer import move_to_device

        example = self.example_input_array if given is None else given
        if example is None:
            raise MisconfigurationException(
                f"{type(self).__qualname__}.{caller} needs an input to run with. Give {argument}, or set "
                "self.example_input_array."
            )
        example = move_to_device(example, self.device)
        if isinstance(example, dict):
            return (), example
        return (example if isinstance(example, tuple) else (example,)), {}

    @contextlib.contextmanager
    def _ready_for_export(self) -> Iterator[None]:
        """Evaluation mode without gradients or trainer, and afterwards all as before, each layer in its own mode."""
        modes = {module: module.training for module in self.modules()}
        attached = {layer: layer._trainer for layer in modes if isinstance(layer, AttachedModule)}
        try:
            # An exporter looks at every attribute; the trainer is none of the model.
            for layer in attached:
                layer.__dict__.pop("_trainer", None)
            AttachedModule._exporting = True
            with torch.no_grad():
                self.eval()
                yield
        finally:
            AttachedModule._exporting = False
            for module, training in modes.items():
                module.training = training
            for layer, trainer in attached.items():
                if trainer is not None:
                    layer.__dict__["_trainer"] = trainer
