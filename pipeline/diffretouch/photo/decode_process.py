"""What runs in a decoder process, see `isolation`: reads requests from standard input until it closes.

A request is one line of JSON. The answer is a line with the length of a pickle and of the buffers it leaves out, all
of which follow. Whatever a library prints goes to the file that is this process's standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
from typing import Any, BinaryIO

from .core import Decoded, Refused
from .readers import reader_of_kind

MEMORY_PER_PIXEL = 24
"""Bytes a decoder may take per allowed pixel: 16-bit RGBA three times, as RAW and TIFF with planes need."""
_LATER = 10.0  # seconds
_MEMORY_AT_LEAST = 4 << 30  # libraries alone reserve 1 to 2 GB of addresses without using them


def main() -> None:
    """Answer requests until the other side goes."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into an answer
    for line in requests:
        request = json.loads(line)
        _limit_time(request["seconds"])
        send(answers, _answer(request))
        _limit_time(0)


def _answer(request: dict[str, Any]) -> tuple[str, Any]:
    """("decoded", `Decoded`), ("refused", why) or ("damaged", None)."""
    _limit_memory(request["max_pixels"])
    try:
        with open(request["path"], "rb") as file:
            return "decoded", reader_of_kind(request["kind"])(file, request["max_pixels"])
    except Refused as refusal:
        return "refused", str(refusal)
    except MemoryError:
        return "refused", "there is not enough memory to decode it"
    except Exception:  # each decoder has its own families of exceptions for bad content
        return "damaged", None


def _limit_time(seconds: float) -> None:
    """End this process later than its owner would, which may be gone by then; 0 takes that back."""
    if hasattr(signal, "alarm"):
        signal.alarm(int(seconds and seconds + _LATER))


def _limit_memory(max_pixels: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows; macOS knows the limit, not its use
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = max(_MEMORY_AT_LEAST, MEMORY_PER_PIXEL * max_pixels)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def send(stream: BinaryIO, answer: tuple[str, Decoded | str | None]) -> None:
    """Write an answer; arrays go as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    parts: list[Any] = [buffer.raw() for buffer in buffers]
    stream.write(json.dumps([len(packed), *(len(part) for part in parts)]).encode() + b"\n")
    for part in (packed, *parts):
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[str, Any]:
    """Read an answer. EOFError: the other side has gone."""
    first = stream.readline()
    if not first.endswith(b"\n"):
        raise EOFError
    packed, *buffers = (_exactly(stream, length) for length in json.loads(first))
    return pickle.loads(packed, buffers=buffers)


def _exactly(stream: BinaryIO, length: int) -> bytearray:
    content = bytearray(length)
    view, at = memoryview(content), 0
    while at < length:
        count = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        at += count
    return content


if __name__ == "__main__":
    main()
