"""The table of peaks, asked by the names that torch gives devices."""

from __future__ import annotations

import pytest
import torch

from leyden_monitoring.peak_flops import peak_flops, peak_flops_of


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA B200", 2250),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_devices(device: str, tera: float) -> None:
    assert peak_flops(device, "bfloat16") == tera * 1e12


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla V100-SXM3-32GB",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_a_device_that_only_resembles_a_known_one_is_unknown(device: str) -> None:
    assert peak_flops(device, "float16") is None


def test_a_format_that_the_device_has_no_units_for_is_unknown() -> None:
    assert peak_flops("Tesla V100-SXM2-16GB", "float16") == 125e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bfloat16") is None
    assert peak_flops("Tesla V100-SXM2-16GB", "tf32") is None


@pytest.mark.parametrize(
    ("precision", "tera"),
    [
        ("64-true", 67),
        ("32-true", 67),
        ("16-true", 989.4),
        ("16-mixed", 989.4),
        ("bf16-true", 989.4),
        ("bf16-mixed", 989.4),
        ("int4-mine", None),
    ],
)
def test_the_precision_of_the_trainer_decides_the_format(
    monkeypatch: pytest.MonkeyPatch, precision: str, tera: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")  # the edge: a driver
    expected = None if tera is None else tera * 1e12
    assert peak_flops_of(torch.device("cuda", 0), precision) == expected
    assert peak_flops_of(torch.device("cpu"), precision) is None


def test_float32_products_may_run_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert peak_flops_of(torch.device("cuda", 0), "32-true") == 494.7e12
    finally:
        torch.set_float32_matmul_precision(before)
