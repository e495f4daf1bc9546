"""How much one visitor may ask for in a minute."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict, deque
from typing import Any

import strings
from gradio.context import LocalContext

_WINDOW = 60.0  # seconds
_KEEP = 10_000  # visitors that are remembered


class TooMany(ValueError):
    """A visitor has asked for all that they may; the message is one sentence that says for how long."""


class Visitors:
    """Requests of every visitor in the last minute.

    Args:
        per_minute: how many each may make.
    """

    def __init__(self, per_minute: int):
        self._per_minute = per_minute
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, visitor: str) -> None:
        """Count a request.

        Raises:
            TooMany: if it is one too many; it does not count then.
        """
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault(visitor, deque())
            self._times.move_to_end(visitor)
            if len(self._times) > _KEEP:
                self._times.popitem(last=False)
            while times and now - times[0] >= _WINDOW:
                times.popleft()
            if len(times) >= self._per_minute:
                seconds = math.ceil(_WINDOW - (now - times[0]))
                raise TooMany(strings.TOO_MANY_REQUESTS.format(allowed=self._per_minute, seconds=seconds))
            times.append(now)


def visitor() -> str:
    """The address of who asks in this call of a handler, which a Space is told by the proxy before it."""
    request: Any = LocalContext.request.get(None)
    forwarded = request.headers.get("x-forwarded-for", "") if request and "SPACE_ID" in os.environ else ""
    return forwarded.partition(",")[0].strip() or str(getattr(getattr(request, "client", None), "host", ""))
