"""`diffretouch push`: a model, adapter, data set or Space to the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_push)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--pull-request", action="store_true", help="open a pull request instead of writing to main")


def _run_push(options: argparse.Namespace) -> int:
    from ..hub.upload import push

    def send() -> str:
        commit = push(
            options.folder,
            options.repo_id,
            private=options.private or None,
            commit_message=options.message,
            create_pr=options.pull_request,
        )
        return str(commit.pr_url or commit.repo_url)

    return one_line(send)
