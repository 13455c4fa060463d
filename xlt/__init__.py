"""xlt adapts language models to low-resource languages, and measures what that buys.

record = xlt.run("method=seq_bn_inv", "lang=mt", "task=sib200")
xlt.load(record).predict(["Il-kelb jiġri fil-ġnien."])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlt.api import load, run

__all__ = ["load", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when first used, so that `import xlt` costs nothing
        from xlt import api

        return getattr(api, name)
    raise AttributeError(f"module 'xlt' has no attribute {name!r}")
