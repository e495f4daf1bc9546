"""Decoders that are known to hang or crash run in processes of their own, which may be killed: that costs one photo.

A process is started when a thread needs one and none is free, and kept for the next photo. They end with the program,
however that ends, because their standard input does. What handing a picture over costs (benchmarks/decoding.py: 2 MP,
2 busy cores, medians in turns) is 41% of decoding a JPEG, 36% of a PNG, 27% of a WebP, 107% of a TIFF, 10% of an AVIF,
7% of a HEIC and 6% of a RAW. JPEG, PNG and WebP, whose decoders are not known to hang or crash and read no more than
their header's size of pixels, therefore stay in process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

from .core import Decoded, Refused
from .decode_process import receive

ISOLATED_KINDS = frozenset(("RAW", "TIFF", "HEIC", "AVIF", "JXL"))
SECONDS_AT_LEAST = 120.0
"""How long a decoder may take at least; a second is added for every `BYTES_PER_SECOND` of the file."""
BYTES_PER_SECOND = 1 << 20

_TROUBLE = (b"corrupted at", b"Unexpected end of file", b"unexpected end of file")  # what LibRaw prints and goes on


class DecoderPool:
    """Decoder processes, as many as there are threads that decode at once.

    Args:
        command: what starts one.
        seconds: see `SECONDS_AT_LEAST`.
    """

    def __init__(self, command: list[str] | None = None, seconds: float = SECONDS_AT_LEAST):
        self.command = command or [sys.executable, "-m", f"{__package__}.decode_process"]
        self.seconds = seconds
        self._free: list[_Process] = []
        self._lock = threading.Lock()

    def decode(self, path: str, kind: str, max_pixels: int) -> Decoded:
        """What the reader of `kind` makes of the file.

        Raises:
            Refused: by the reader, or because the decoder crashed, took too long or could not be started.
            DecoderError: the reader failed for a reason of its own, which means that the file is damaged.
        """
        process = self._taken()
        seconds = self.seconds + os.path.getsize(path) / BYTES_PER_SECOND
        request = {"path": os.path.abspath(path), "kind": kind, "max_pixels": max_pixels, "seconds": seconds}
        try:
            (outcome, content), said = process.ask(request, seconds)
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._free.append(process)
        if outcome == "refused":
            raise Refused(content)
        if outcome == "damaged":
            raise DecoderError
        trouble = kind == "RAW" and content.damage is None and any(words in said for words in _TROUBLE)
        return content._replace(damage="parts of its picture cannot be decoded") if trouble else content

    def _taken(self) -> _Process:
        with self._lock:
            if self._free:
                return self._free.pop()
        try:
            return _Process(self.command)
        except OSError as error:
            raise Refused(f"no process could be started to decode it ({error.strerror})") from error

    def close(self) -> None:
        """End the processes that are free."""
        with self._lock:
            for process in self._free:
                process.end()
            self._free.clear()


class DecoderError(Exception):
    """A decoder failed on damaged content."""


class _Process:
    def __init__(self, command: list[str]):
        self._said = tempfile.TemporaryFile("a+b", prefix="diffretouch-")  # noqa: SIM115 (closed by `end`)
        package = str(Path(__file__).resolve().parents[2])  # the same code, wherever this program found it
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the program, which then closes our input
        )

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[tuple[str, Any], bytes]:
        """The answer, and what was printed meanwhile. Refused: it crashed or took too long."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests and answers
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
            answer = receive(_as_binary(answers))
        except (EOFError, BrokenPipeError):
            late = not timer.is_alive()
            raise Refused(self._told(late, seconds)) from None
        finally:
            timer.cancel()
        return answer, self._heard()

    def _told(self, late: bool, seconds: float) -> str:
        code = self._process.wait()
        if late:
            return f"decoding it took longer than {seconds:.0f} seconds and was stopped"
        cause = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                cause = signal.Signals(-code).name
        return f"its decoder crashed on it ({cause})"

    def _heard(self) -> bytes:
        self._said.seek(0)
        said = self._said.read(1 << 16)
        if said:
            self._said.truncate(0)
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


def _as_binary(stream: Any) -> BinaryIO:
    return stream


_pools: dict[int, DecoderPool] = {}  # by process: a fork must not share its parent's pipes


def decoder_pool() -> DecoderPool:
    """The pool of this process."""
    return _pools.setdefault(os.getpid(), DecoderPool())
