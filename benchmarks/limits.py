"""A worker process with limits, for files that may hang or crash what reads them; it is kept for the next request.

A script that is started as a worker calls `answer` with a function of one request; its other side asks by `Worker`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any


class Broken(Exception):
    """The worker hung or crashed; the next request has a new one. `args[0]` is "hung" or "crashed"."""


class Worker:
    """A process that answers requests, each a line of JSON, with a line of JSON.

    Args:
        command: what starts it.
        seconds: how long one request may take.
    """

    def __init__(self, command: list[str], seconds: float):
        self.command, self.seconds = command, seconds
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: Any) -> Any:
        """The answer. Broken: there was none."""
        if self._process is None:
            self._process = subprocess.Popen(self.command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        assert process.stdin and process.stdout
        timer = threading.Timer(self.seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        late = not timer.is_alive()
        timer.cancel()
        if not line.endswith("\n"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)  # for its own exit code
            self.close()
            raise Broken("hung" if late else "crashed", f"exit code {process.returncode}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def answer(function: Callable[[Any], Any], memory: int) -> None:
    """Answer requests until the other side goes, in a process of at most `memory` bytes of addresses."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write into an answer
    for line in sys.stdin:
        answers.write(json.dumps(function(json.loads(line))) + "\n")
        answers.flush()
