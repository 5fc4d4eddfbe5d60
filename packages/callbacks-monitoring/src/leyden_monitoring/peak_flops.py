"""What devices could do at most: floating point operations per second by device and number format, from data sheets.

Figures are for dense matrix products on the matrix units where the format has them, without the factor of two that
data sheets print for sparse ones. Where a name stands for boards of several speeds the table says which.

Sources, all of NVIDIA: the data sheets of HGX B200, H200, H100, A100, A30, A40, A10, L40S, L40, L4, V100, T4 and RTX
A6000, and the whitepapers on the Ada and Ampere GPU architectures for the GeForce boards.
"""

from __future__ import annotations

import torch

__all__ = ["peak_flops", "peak_flops_of"]

_TERA = 1e12

# name as torch.cuda.get_device_name() has it, in lower case and without the maker: TFLOP/s by format. The first entry
# whose words are all in the name counts, so the special stand before the general.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    ("b200", {"float64": 37, "float32": 75, "tf32": 1125, "float16": 2250, "bfloat16": 2250}),
    ("h200 nvl", {"float64": 60, "float32": 60, "tf32": 417.5, "float16": 835.5, "bfloat16": 835.5}),
    ("h200", {"float64": 67, "float32": 67, "tf32": 494.7, "float16": 989.4, "bfloat16": 989.4}),
    ("h100 nvl", {"float64": 60, "float32": 60, "tf32": 417.5, "float16": 835.5, "bfloat16": 835.5}),
    ("h100 pcie", {"float64": 51, "float32": 51, "tf32": 378, "float16": 756, "bfloat16": 756}),
    ("h100", {"float64": 67, "float32": 67, "tf32": 494.7, "float16": 989.4, "bfloat16": 989.4}),  # SXM
    ("a100", {"float64": 19.5, "float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312}),
    ("a30", {"float64": 10.3, "float32": 10.3, "tf32": 82, "float16": 165, "bfloat16": 165}),
    ("a40", {"float32": 37.4, "tf32": 74.8, "float16": 149.7, "bfloat16": 149.7}),
    ("a10", {"float32": 31.2, "tf32": 62.5, "float16": 125, "bfloat16": 125}),
    ("rtx a6000", {"float32": 38.7, "tf32": 77.4, "float16": 154.8, "bfloat16": 154.8}),
    ("l40s", {"float32": 91.6, "tf32": 183, "float16": 362, "bfloat16": 362}),
    ("l40", {"float32": 90.5, "tf32": 90.5, "float16": 181, "bfloat16": 181}),
    ("l4", {"float32": 30.3, "tf32": 60, "float16": 121, "bfloat16": 121}),
    ("v100 sxm2", {"float64": 7.8, "float32": 15.7, "float16": 125}),
    ("v100 pcie", {"float64": 7, "float32": 14, "float16": 112}),
    ("t4", {"float32": 8.1, "float16": 65}),
    ("rtx 4090", {"float32": 82.6, "tf32": 82.6, "float16": 165.2, "bfloat16": 165.2}),
    ("rtx 3090", {"float32": 35.6, "tf32": 35.6, "float16": 71, "bfloat16": 71}),
)

_OTHER_BOARDS = frozenset({"d", "laptop", "max", "mig", "super", "ti"})
"""Words that make another board of a name, or a part of one."""


def peak_flops(device_name: str, number_format: str) -> float | None:
    """Return the operations per second that a device reaches at most; None where the table does not know.

    Args:
        device_name: as ``torch.cuda.get_device_name()`` gives it.
        number_format: "float64", "float32", "tf32", "float16" or "bfloat16".

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")
        989400000000000.0
        >>> peak_flops("Tesla T4", "bfloat16") is None
        True
    """
    words = set(device_name.lower().replace("-", " ").split())
    if words & _OTHER_BOARDS:
        return None
    for name, peaks in _PEAKS:
        if words.issuperset(name.split()):
            tera = peaks.get(number_format)
            return None if tera is None else tera * _TERA
    return None


def peak_flops_of(device: torch.device, precision: str) -> float | None:
    """Return `peak_flops` of a device under a precision of the Trainer; None where it is not known."""
    if device.type != "cuda":
        return None
    width, _, _ = precision.partition("-")
    number_format = {"64": "float64", "32": "float32", "16": "float16", "bf16": "bfloat16"}.get(width)
    if number_format == "float32" and torch.get_float32_matmul_precision() != "highest":
        number_format = "tf32"
    return None if number_format is None else peak_flops(torch.cuda.get_device_name(device), number_format)
