"""Retouching many photo files: the loop that overlaps them, on threads unless it is given another engine.

    jobs = plan([Path("shoot")], Naming(Path("retouched")))
    for record in retouch_files(jobs, Settings(brightness=0.3)):
        print(record["source"], record["error"])

Every worker takes one photo from file to file, so that one photo's decoding runs beside another one's model, and no
more photos are in memory than there are workers. The libraries that decode, predict, apply and encode release
Python's global lock: threads are enough. `engine_ray` runs the same function on a cluster.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from .plan import Job, Refusal
from .report import Record, Report
from .retouch import Retoucher, Stopped, retouch_photo
from .settings import Settings

Records = Generator[Record, None, None]
"""What an engine gives, record by record; closing it breaks the batch off."""

_MOST_WORKERS = 8  # by default: each holds a whole photo and its retouch in memory


def retouch_files(
    jobs: Sequence[Job | Refusal],
    settings: Settings,
    *,
    overwrite: bool = False,
    report: Report | None = None,
    workers: int | None = None,
    engine: Callable[..., Records] | None = None,
) -> Records:
    """Retouch photos, several at a time; yields one record per photo, see `Report`, as they are done or have failed.

    Args:
        jobs: what `plan` returned; refusals become records with their reason as the error.
        settings: of all of them.
        overwrite: replace targets that exist.
        report: where to note them; see `Report.unfinished` for what can be left out.
        workers: photos in memory at once; None = one per core, at most 8.
        engine: what runs them, as `run_threads` does; None = that.

    Raises:
        UsageError: if the model or look cannot be loaded, or the report cannot be written. When the iterator is closed
            or interrupted, photos under way are broken off and leave nothing behind.
    """
    with report.open() if report else contextlib.nullcontext():
        described = settings.described()
        for refusal in (job for job in jobs if isinstance(job, Refusal)):
            record = {"source": str(refusal.source), "outputs": {}, "seconds": {}, "settings": described}
            yield _noted({**record, "error": refusal.reason}, report)
        accepted = [job for job in jobs if isinstance(job, Job)]
        if accepted:
            run = engine or run_threads
            with contextlib.closing(run(accepted, settings, overwrite, workers)) as records:
                for record in records:
                    yield _noted(record, report)


def _noted(record: Record, report: Report | None) -> Record:
    if report:
        report.add(record)
    return record


def run_threads(
    jobs: Sequence[Job], settings: Settings, overwrite: bool = False, workers: int | None = None
) -> Records:
    """The engine of one machine: worker threads that share one model; records come in the order of the jobs."""
    workers = min(len(jobs), workers or min(_cores(), _MOST_WORKERS))
    show_steps = jobs[0].source.name if len(jobs) == 1 else None
    retoucher = Retoucher(settings, show_steps)
    stopping = threading.Event()

    def check() -> None:
        if stopping.is_set():
            raise Stopped

    def work(job: Job) -> Record:
        check()
        return retouch_photo(job, retoucher, overwrite, check)

    with torch_threads(max(1, _cores() // workers)), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's threads per operation within the block: several photos at once need no more threads than cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
