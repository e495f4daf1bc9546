"""The command line: `diffretouch retouch IN... -o OUT` with its sheets, and the commands for models and data sets.

Prints one line and exits with 2 for a bad argument or a photo that cannot be read or written. A batch goes on past a
bad photo, names it at the end and exits with 1. An input is replaced only where `-o` names it and `--overwrite` is
given; no other option, and no other photo of a batch, ever touches it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..batch.plan import UsageError
from .convert import add_convert
from .dataset import add_dataset
from .evaluate import add_evaluate
from .export import add_export
from .init import add_init
from .look import add_look
from .push import add_push
from .report import add_report
from .retouch import add_retouch
from .sweep import add_sweep
from .variants import add_variants


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    options = _parser().parse_args(arguments)
    options.is_program = arguments is None
    try:
        return options.run(options)
    except UsageError as error:
        print(f"diffretouch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffretouch: stopped; every file written so far is complete", file=sys.stderr)
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="diffretouch", description="Expert-quality photo retouching, steered by four sliders.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    add_retouch(commands)
    add_sweep(commands)
    add_variants(commands)
    add_convert(commands)
    add_init(commands)
    add_look(commands)
    add_export(commands)
    add_push(commands)
    add_dataset(commands)
    add_evaluate(commands)
    add_report(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
