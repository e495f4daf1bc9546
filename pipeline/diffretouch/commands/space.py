"""`diffretouch space`: the web page, on this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from ..batch.plan import UsageError
from .arguments import count_between


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_space)
    parser.add_argument(
        "--port", type=count_between("port", 1, 65535), metavar="N", help="(default: the first free one from 7860)"
    )
    parser.add_argument("--model", help="folder or Hub id (default: the bundled model)")


def _run_space(options: argparse.Namespace) -> int:
    settings = {"GRADIO_SERVER_PORT": options.port, "DIFFRETOUCH_MODEL": options.model}
    given = {name: str(value) for name, value in settings.items() if value is not None}
    # A process of its own, as on the Hub: the page's modules lie beside each other and belong to no package.
    return subprocess.call([sys.executable, _page()], env={**os.environ, **given})


def _page() -> Path:
    """The page of a checkout, or as a wheel installs it."""
    places = [
        Path(__file__).parents[3] / "space",
        Path(sysconfig.get_path("data")) / "share" / "diffretouch" / "space",
    ]
    for place in places:
        if (place / "app.py").is_file():
            return place / "app.py"
    raise UsageError(f"the page is not installed: there is no app.py in {' and none in '.join(map(str, places))}")
