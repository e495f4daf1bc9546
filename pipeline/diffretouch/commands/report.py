"""`diffretouch report`: the report of a training run, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch.plan import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_report)
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run's output_dir")


def _run_report(options: argparse.Namespace) -> int:
    from ..training.run_report import write_training_report

    try:
        print(write_training_report(options.folder))
    except (OSError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    return 0
