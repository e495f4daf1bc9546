"""`diffretouch export`: a self-contained model folder, which loads anywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..model import BUNDLED_MODEL
from .arguments import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_export)
    parser.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def _run_export(options: argparse.Namespace) -> int:
    from ..hub.upload import export

    return one_line(lambda: str(export(options.model or BUNDLED_MODEL, options.output)))
