"""What several commands share: kinds of arguments, the options of model and sliders, one line for an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from ..batch.plan import UsageError

SLIDERS = {
    "colorfulness": "muted to vivid",
    "brightness": "dark to bright",
    "contrast": "soft to crisp",
    "temperature": "cool to warm",
}

VARIANCES = ("fixed_small", "fixed_large")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
MAX_VARIANTS = 32  # they go through the model together, and side by side have to fit into a JPEG


def add_sliders(parser: argparse.ArgumentParser) -> None:
    for name, meaning in SLIDERS.items():
        parser.add_argument(f"--{name}", type=number_between(name, -1.5, 1.5), default=0.0, metavar="X", help=meaning)
    add_strength(parser)


def add_strength(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strength", type=number_between("strength", 0, 2), default=1.0, help="0 = the photo, 1 = full"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=count_between("seed", 0, 2**32 - 1),
        default=0,
        help="of the style, 0 = the middle; variants count up from it",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_mutually_exclusive_group()
    sampling.add_argument(
        "--steps", type=count_between("steps", 1, 1000), help="sampling steps (default: the model's own)"
    )
    sampling.add_argument("--fast", action="store_true", help="the fewest steps that lose little")
    parser.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    parser.add_argument("--lora", action="append", default=[], metavar="ID", help="adapter: folder, file or Hub id")
    parser.add_argument(
        "--lora-scale", type=number_between("lora_scale", -4, 4), default=1.0, metavar="X", help="its weight"
    )


def number_between(name: str, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {text}")
        return value

    return parse


def count_between(name: str, least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 20
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"`{name}` has to be an integer in [{least}, {most}], got {text}")
        return int(text)

    return parse


def start_quickly(options: argparse.Namespace, module: str) -> None:
    """Leave out what the retouch will not use; a process that is not ours alone may use it later."""
    if options.is_program and not options.lora:
        from .quick_start import import_quickly

        import_quickly(module)


def torch_dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, DTYPES[name])


def one_line(work: Callable[[], str]) -> int:
    """Do the work and print what it returns; 0, or 1 and one line where the disk or the Hub fails."""
    from ..hub.upload import HubError

    try:
        print(work())
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    except (HubError, OSError) as error:
        print(f"diffretouch: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
