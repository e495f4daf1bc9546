"""The batch as a Ray Data job: the same function per photo, on this machine or on a cluster.

Ray places the workers, and starts a photo again whose worker died. That is safe, because a retouch whose file is there
already finds the same bytes. Photos, targets and the model have to be addresses that every machine of the cluster
reaches: a shared folder, or `s3://...`, `hf://...` and the like.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..extras import require
from .delivery import first_line
from .loop import Records
from .plan import Job, UsageError
from .retouch import Retoucher, retouch_photo
from .settings import Settings

_MOST_BLOCKS = 1000  # of photos: one each in batches up to this size, so that a dead worker costs one photo


class _Worker:
    """One process of the job; loads the model once."""

    def __init__(self, jobs: Sequence[Job], settings: Settings, overwrite: bool):
        import torch

        torch.set_num_threads(1)
        self.jobs = jobs
        self.overwrite = overwrite
        self.retoucher = Retoucher(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        record = retouch_photo(self.jobs[int(row["id"])], self.retoucher, self.overwrite)
        return {"record": json.dumps(record)}


def ray_engine(address: str | None = None) -> Callable[..., Records]:
    """An engine for `retouch_files` on the cluster at `address`; None = one of this machine, ended after it."""

    def run(jobs: Sequence[Job], settings: Settings, overwrite: bool = False, workers: int | None = None) -> Records:
        Retoucher(settings)  # what cannot be loaded here is told in one line, not by every worker
        with _connected(address) as ray:
            cores = int(ray.cluster_resources().get("CPU", 1))
            # Items, not a range: reading a range takes a core of its own, and the workers take all there are.
            rows = [{"id": number} for number in range(len(jobs))]
            numbers = ray.data.from_items(rows, override_num_blocks=min(len(jobs), _MOST_BLOCKS))
            records = numbers.map(
                _Worker,
                fn_constructor_args=(list(jobs), settings, overwrite),
                compute=ray.data.ActorPoolStrategy(size=max(1, min(len(jobs), workers or cores, cores))),
                num_cpus=1,
            )
            try:
                for row in records.iter_rows():
                    yield json.loads(row["record"])
            except ray.exceptions.RayError as error:
                raise UsageError(f"Ray broke the batch off: {first_line(error)}") from error

    return run


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    # Ray's own reports of usage and its notices are not part of this program's output.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        require("the engine ray", "ray", ["ray"])
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(first_line(error)) from error
    started = not ray.is_initialized()
    try:
        _check_reachable(address)
        if started:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"cannot reach a Ray cluster at {address or 'this machine'}: {first_line(error)}") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
