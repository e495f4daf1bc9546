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
from importlib import import_module
from typing import NoReturn

from ..batch.plan import UsageError
from ..extras import MissingExtra
from .doors import check_extras

# Each is the module of its name.
COMMANDS = {
    "retouch": "retouch photos, or folders of them, at their full resolution",
    "sweep": "one picture of a photo under every slider at five positions",
    "variants": "one picture of a photo in several expert styles",
    "look": "learn a look from photos before and after an edit, in seconds",
    "match": "retouch photos so that their tones and colours come near to an example photo's",
    "convert": "a checkpoint of the published layout to a model folder, or back",
    "init": "an untrained model from Stable Diffusion 1.x or 2.x, to train",
    "export": "write a self-contained model folder, which loads anywhere",
    "push": "push a model, data set or Space folder to the Hub",
    "dataset": "build a data set to train on, from your own or published photos",
    "evaluate": "quality, control and diversity of a model, beside baselines",
    "report": "write report.html of a training run, finished or not",
    "space": "start the web page on this machine, until Ctrl-C",
    "doctor": "say what is installed, which fast paths are on, and what is missing",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    options = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
    options.is_program = arguments is None
    try:
        check_extras(options)
        return options.run(options)
    except (MissingExtra, UsageError) as error:
        print(f"diffretouch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffretouch: stopped; every file written so far is complete", file=sys.stderr)
        return 130


def _parser(arguments: Sequence[str]) -> _Parser:
    parser = _Parser(prog="diffretouch", description="Expert-quality photo retouching, steered by four sliders.")
    version = import_module("diffretouch").__version__  # by name: no room imports the house
    parser.add_argument("--version", action="version", version=f"diffretouch {version}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == chosen:  # the others' modules would only cost time
            import_module(f".{name}", __package__).add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
