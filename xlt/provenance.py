"""How a result came about: machine, versions, time, memory and energy. Kept beside results, never in fingerprints."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("xlt", "torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors", "numpy")
_RAPL = Path("/sys/class/powercap")


class Meter:
    """Measures a build: wall time, peak memory, and energy where the machine tells it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._started = time.monotonic()
        self._energy = self._joules()

    def read(self) -> dict[str, Any]:
        """Seconds since the start; peak memory in bytes (of the GPU, or of the whole process on a CPU); joules or None."""
        if self._device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self._device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        energy = self._joules()
        return {
            "seconds": time.monotonic() - self._started,
            "peak_memory_bytes": memory,
            "energy_joules": energy - self._energy if energy is not None and self._energy is not None else None,
        }

    def _joules(self) -> float | None:
        if self._device.type == "cuda":
            try:
                import pynvml

                pynvml.nvmlInit()
                handle = pynvml.nvmlDeviceGetHandleByIndex(self._device.index or 0)
                return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
            except Exception:  # no NVML package, or a GPU that does not measure: energy stays unknown
                return None
        try:
            counters = sorted(_RAPL.glob("intel-rapl:[0-9]*/energy_uj"))
            packages = [path for path in counters if path.parent.name.count(":") == 1]
            return sum(int(path.read_text()) for path in packages) / 1e6 if packages else None
        except (OSError, ValueError):
            return None


def surroundings(device: torch.device) -> dict[str, Any]:
    """Time, device, threads, versions and source revision."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "packages": _versions(),
        "python": platform.python_version(),
        "git": _git(),
    }


@cache
def _versions() -> dict[str, str | None]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@cache
def _git() -> dict[str, Any] | None:
    """Commit of xlt's own source tree and whether it was changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        return {"commit": _git_says(root, "rev-parse", "HEAD"), "dirty": bool(_git_says(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None


def _git_says(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
