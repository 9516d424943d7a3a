"""What a run was made with: versions, hardware, threads."""

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("mech-grok", "torch", "transformer-lens", "numpy", "xarray", "zarr", "plotly")
_BITS_DEPEND_ON = ("mech_grok", "torch", "platform", "cpu", "threads", "device", "stack_size")


def describe_environment(device: str) -> dict[str, str | int]:
    """Versions, processor, threads and device, as a run records them."""
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): metadata.version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def differences(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What has changed, name -> value now, of that on which training depends bit for bit."""
    return {name: now[name] for name in _BITS_DEPEND_ON if name in first and first[name] != now[name]}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
