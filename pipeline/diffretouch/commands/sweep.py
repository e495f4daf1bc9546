"""`diffretouch sweep`: one picture of a photo under every slider at five positions."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import number_between
from .sheet import add_sheet, write_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_sweep)
    add_sheet(parser)
    parser.add_argument(
        "--strength", type=number_between("strength", 0, 2), default=1.0, help="0 = the photo, 1 = full"
    )


def _run_sweep(options: argparse.Namespace) -> int:
    def draw(retouch: Any, shown: Any) -> Any:
        from ..batch.sheets import sliders_sheet

        return sliders_sheet(retouch, options.seed)

    return write_sheet(options, draw)
