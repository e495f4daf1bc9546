"""Which part of the program needs which extra of pyproject.toml, said in one line before any work.

The modules of every extra, and one sentence for those that are missing. Looking a module up does not import it. Which
command or option asks for which extra: commands/doors.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

BUILDING = ("datasets", "pyarrow", "scipy", "skimage")
MEASURING = (*BUILDING, "matplotlib", "yaml")

PAGE = ("gradio", "numba", "skimage", "peft", "transformers", "rawpy", "pillow_heif", "OpenImageIO")

MODULES = {
    "fast": ("numba",),
    "lora": ("peft", "transformers"),
    "raw": ("rawpy", "pillow_heif"),
    "c2pa": ("c2pa", "cryptography"),
    "jxl": ("OpenImageIO",),
    "looks": ("skimage",),
    "ray": ("ray", "upath"),
    "space": PAGE,
    "mcp": ("mcp", *PAGE),
    "train": (*MEASURING, "OpenEXR", "peft", "tensorboard", "transformers"),
    "metrics": ("brisque", "skvideo"),
}
"""What each extra brings, by the names that are imported."""


class MissingExtra(ImportError):
    """What was asked for needs a package that is not installed; one line that says how to install it."""


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def missing(modules: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [module for module in modules if not is_installed(module)]


def require(what: str, extra: str, modules: Sequence[str]) -> None:
    """Raise `MissingExtra` if one of the modules that `what` needs is not installed.

    Example:
        >>> require("adding", "train", ["math"])
        >>> require("flying", "train", ["wings"])
        Traceback (most recent call last):
            ...
        diffretouch.extras.MissingExtra: flying needs wings, which is not installed: pip install 'diffretouch[train]'
    """
    absent = missing(modules)
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        names = " and ".join(absent) if len(absent) < 3 else f"{', '.join(absent[:-1])} and {absent[-1]}"
        raise MissingExtra(f"{what} needs {names}, which {verb} not installed: pip install 'diffretouch[{extra}]'")
