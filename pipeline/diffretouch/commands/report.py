"""`diffretouch report`: the report of a training run, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..batch.plan import UsageError


def add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="write report.html of a training run, finished or not")
    report.set_defaults(run=_run_report)
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's output_dir")


def _run_report(options: argparse.Namespace) -> int:
    from ..training.run_report import write_training_report

    try:
        print(write_training_report(options.folder))
    except (OSError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    return 0
