"""What a run was made with: versions, hardware, threads."""

import platform
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = ("mech-grok", "torch", "transformer-lens", "numpy", "xarray", "zarr", "plotly")


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


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
