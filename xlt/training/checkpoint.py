"""The state of a loop on the disk, from which a killed run goes on as if nothing had happened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from xlt.store import write_durably


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`; a kill at any time leaves the old or the new one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    write_durably(folder / "state.pt", content.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that `save_checkpoint` wrote last, on the CPU; None without one."""
    path = folder / "state.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
