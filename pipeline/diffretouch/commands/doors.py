"""Which command or option needs which extra: a small table, looked through before any work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..extras import BUILDING, MEASURING, MODULES, require

# Arguments that name photos, by command.
_PHOTOS = {
    "retouch": ("photos", "output"),
    "match": ("match", "photos", "output"),
    "sweep": ("photo", "output"),
    "variants": ("photo", "output"),
    "look": ("pairs",),
}
_HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_HEIC_STARTS = ((b"ftyp", 4),)
_JXL_STARTS = ((b"JXL ", 4), (b"\xff\x0a", 0))


@dataclass(frozen=True)
class Door:
    """A command or an option, as it is typed, the extra behind it, and whether a command line asks for it."""

    name: str
    extra: str
    modules: tuple[str, ...]
    is_asked: Callable[[argparse.Namespace], bool]


def _command(name: str) -> Callable[[argparse.Namespace], bool]:
    return lambda options: getattr(options, "command", None) == name


def _option(name: str) -> Callable[[argparse.Namespace], bool]:
    return lambda options: bool(getattr(options, name, None))


def _files(options: argparse.Namespace) -> list[str]:
    """What is named as a photo to read or to write."""
    values = [getattr(options, name) for name in _PHOTOS.get(options.command, ())]
    return [str(one) for value in values for one in (value if isinstance(value, list) else [value])]


def _has(suffixes: tuple[str, ...], starts: tuple[tuple[bytes, int], ...]) -> Callable[[argparse.Namespace], bool]:
    """Whether a file of such a name is of a kind, told by how it starts, or would become it."""
    return lambda options: any(
        name.lower().endswith(suffixes) and _may_start(Path(name), starts) for name in _files(options)
    )


def _may_start(path: Path, starts: tuple[tuple[bytes, int], ...]) -> bool:
    """Whether the file starts so, or is still to be written; some phones call a JPEG HEIC."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return True
    return any(start.startswith(mark, at) for mark, at in starts)


def _has_raw(options: argparse.Namespace) -> bool:
    from ..photo.suffixes import RAW_SUFFIXES

    return any(Path(name).suffix.lower() in RAW_SUFFIXES for name in _files(options) if Path(name).is_file())


def _has_address(options: argparse.Namespace) -> bool:
    return any("://" in name and not name.startswith(("file://", "local://")) for name in _files(options))


DOORS = (
    Door("dataset", "train", BUILDING, _command("dataset")),
    Door("evaluate", "train", MEASURING, _command("evaluate")),
    Door("report", "train", MEASURING, _command("report")),
    Door("space", "space", ("gradio", "skimage"), _command("space")),
    Door("look", "looks", ("skimage",), _command("look")),
    Door("match", "looks", ("skimage",), _command("match")),
    Door("--engine ray", "ray", ("ray",), lambda options: getattr(options, "engine", None) == "ray"),
    Door("--lora", "lora", ("peft", "transformers"), _option("lora")),
    Door("--sign", "c2pa", MODULES["c2pa"], _option("sign")),
    Door("--cube", "looks", ("skimage",), _option("cube")),
    Door("--haldclut", "looks", ("skimage",), _option("haldclut")),
    Door("an address (s3://, hf:// and the like)", "ray", ("upath",), _has_address),
    Door("HEIC", "raw", ("pillow_heif",), _has(_HEIC_SUFFIXES, _HEIC_STARTS)),
    Door("JPEG XL", "jxl", ("OpenImageIO",), _has((".jxl",), _JXL_STARTS)),
    Door("camera RAW", "raw", ("rawpy",), _has_raw),
)


def check_extras(options: argparse.Namespace) -> None:
    """Raise `MissingExtra` for the first thing that a command line asks for and this installation cannot do."""
    for door in DOORS:
        if door.is_asked(options):
            require(door.name, door.extra, door.modules)
