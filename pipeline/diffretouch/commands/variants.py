"""`diffretouch variants`: one picture of a photo in several expert styles."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import MAX_VARIANTS, SLIDERS, add_sliders, count_between
from .sheet import add_sheet, write_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_variants)
    add_sheet(parser)
    add_sliders(parser)
    parser.add_argument(
        "--count", type=count_between("count", 1, MAX_VARIANTS), default=4, metavar="N", help="of styles"
    )


def _run_variants(options: argparse.Namespace) -> int:
    def draw(retouch: Any, shown: Any) -> Any:
        from ..batch.sheets import seeds_row, sheet

        sliders = {name: getattr(options, name) for name in SLIDERS}
        seeds = range(options.seed, options.seed + options.count)
        return sheet([seeds_row(retouch, shown.pixels, options.photo.stem, seeds, sliders)])

    return write_sheet(options, draw)
