"""Retouching many photo files: the function that retouches one, the loop that overlaps them, and the report.

    jobs = plan([Path("shoot")], Naming(Path("retouched")))
    for record in retouch_files(jobs, Settings(brightness=0.3)):
        print(record["source"], record["error"])

Every worker takes one photo from file to file, so that one photo's decoding runs beside another one's model, and no
more photos are in memory than there are workers. The libraries that decode, predict, apply and encode release
Python's global lock: threads are enough. `engine_ray` runs the same function on a cluster.

Nothing here replaces a file unless told to. A retouch is made in a hidden folder beside its target and moved once it
is whole; a target that exists already is left alone, and is an error unless it holds just these bytes, as after a
run that was killed between moving the file and noting it in the report.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import filecmp
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import BUNDLED_MODEL
from ..files import move_to_new_name
from .plan import Job, Refusal, UsageError, is_local

if TYPE_CHECKING:
    import numpy as np

    from ..photo import Photo

Record = dict[str, Any]
"""What a report says about one photo: see `Report`."""
Records = Generator[Record, None, None]
"""What an engine gives, record by record; closing it breaks the batch off."""

COMPARE_SIZE = (1280, 720)  # most pixels of each picture; a side-by-side picture is for looking at, not for keeping
_HALDCLUT_SIZE = 64  # level 8, the one that every program reads
_MOST_WORKERS = 8  # by default: each holds a whole photo and its retouch in memory
_HASHED_WHOLE = 1 << 20  # bytes; of larger files the beginning and the end tell one training run from another


class Stopped(Exception):
    """Work was broken off between two stages because the batch is being stopped."""


@dataclass(frozen=True)
class Settings:
    """All that decides what the retouch of a photo looks like.

    Args:
        colorfulness, brightness, contrast, temperature: the sliders, in [-1.5, 1.5].
        strength: in [0, 2].
        seed: of the style, 0 = the middle; variants count up from it.
        steps: sampling steps; None = the model's own.
        fast: the model's fast sampling instead, see `DiffRetouchPipeline.fast_sampling`.
        model: folder or Hub id; None = the bundled model.
        lora: adapters to load into it, folders, files or Hub ids.
        lora_scale: their weight.
        look: a saved retouch (.safetensors) to apply instead of asking the model.
        lut_size: nodes per side of .cube files.
        remove_gps: leave the place out of the EXIF of what is written.
    """

    colorfulness: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    temperature: float = 0.0
    strength: float = 1.0
    seed: int = 0
    steps: int | None = None
    fast: bool = False
    model: str | None = None
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0
    look: str | None = None
    lut_size: int = 33
    remove_gps: bool = False

    @property
    def sliders(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("colorfulness", "brightness", "contrast", "temperature")}

    def sampling(self, pipe: Any) -> dict[str, Any]:
        """What these settings say about the steps, as arguments of a call of `pipe`."""
        return pipe.fast_sampling() if self.fast else {"num_inference_steps": self.steps}

    def described(self) -> dict[str, Any]:
        """These settings as JSON, with a fingerprint of the files they name: equal means an equal retouch."""
        files = [self.look or self.model or BUNDLED_MODEL, *self.lora]
        fingerprints = [_fingerprint(Path(name)) for name in files]
        return {**dataclasses.asdict(self), "lora": list(self.lora), "fingerprints": fingerprints}


def _fingerprint(path: Path) -> str | None:
    """Of a file or all files of a folder, by name and content; None where there is neither, as for a Hub id."""
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}:".encode())
        with open(file, "rb") as stream:
            digest.update(stream.read(_HASHED_WHOLE))
            stream.seek(max(stream.tell(), size - _HASHED_WHOLE))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


class Retoucher:
    """The model, or the look that stands in for it: photos in, affine grids out, from any number of threads.

    Raises:
        UsageError: if the model, an adapter or the look cannot be loaded.
    """

    def __init__(self, settings: Settings, show_steps: str | None = None):
        self.settings = settings
        self.described = settings.described()
        self._own = threading.local()
        self._look = None if settings.look is None else _load_look(settings.look)
        self._pipe = None if self._look else load_pipeline(settings)
        if self._pipe:
            self._pipe.set_progress_bar_config(disable=show_steps is None, desc=show_steps, leave=False)

    def grids(self, photo: Photo, count: int, check: Callable[[], None]) -> list[Any]:
        """`count` styles of one photo; `check` is called between steps, and may raise to break off."""
        if self._look:
            return [self._look] * count
        import torch

        pipe = self._thread_pipe()

        def between_steps(pipe: Any, step: int, timestep: Any, tensors: dict) -> dict:
            check()
            return tensors

        return pipe(
            photo.model_view(),
            **self.settings.sliders,
            num_variants=count,
            **self.settings.sampling(pipe),
            generator=[torch.Generator().manual_seed(self.settings.seed + i) for i in range(count)],
            output_type="grid",
            callback_on_step_end=between_steps,
        ).grids

    def _thread_pipe(self) -> Any:
        """This thread's own pipeline: the networks are shared, the scheduler counts steps and is not."""
        if not hasattr(self._own, "pipe"):
            self._own.pipe = copy.copy(self._pipe)
            self._own.pipe.scheduler = copy.deepcopy(self._own.pipe.scheduler)
        return self._own.pipe


def load_pipeline(settings: Settings) -> Any:
    """The pipeline that the settings name, with its adapters.

    Raises:
        UsageError: if the model or an adapter cannot be loaded.
    """
    from diffusers.utils import logging as diffusers_logging

    from .. import DiffRetouchPipeline

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    model = settings.model or BUNDLED_MODEL
    try:
        pipe = DiffRetouchPipeline.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`model` has to be a DiffRetouch folder or Hub id, got {model}: {first_line(error)}"
        ) from error
    names = [f"adapter-{number}" for number in range(len(settings.lora))]
    for name, adapter in zip(names, settings.lora, strict=True):
        try:
            pipe.load_lora_weights(adapter, adapter_name=name)
        except (ImportError, OSError, ValueError) as error:
            raise UsageError(f"`lora` has to be an adapter of {model}, got {adapter}: {first_line(error)}") from error
    if names:
        pipe.set_adapters(names, [settings.lora_scale] * len(names))
    return pipe


def _load_look(path: str) -> Any:
    from .. import AffineGrid

    try:
        return AffineGrid.load(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UsageError(f"`look` has to be a saved retouch, got {path}: {reason}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ------------------------------------------------------------------------------------------------- one photo


def retouch_photo(
    job: Job,
    retoucher: Retoucher,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Record:
    """Retouch one photo from file to file; what goes wrong with it is in the record, see `Report`.

    Raises:
        Stopped: if `check` does, which is called between stages; nothing is then left behind.
    """
    from ..photo import PhotoError

    record: Record = {
        "source": str(job.source),
        "outputs": {},
        "seconds": {},
        "settings": retoucher.described,
        "error": None,
    }
    with _seconds(record, "total"):
        try:
            record["source_stamp"] = stamp(job.source)
            _retouch(job, retoucher, overwrite, check, record)
        except PhotoError as error:
            record["error"] = str(error)
        except OSError as error:
            record["error"] = f"cannot retouch {job.source}: {error.strerror or first_line(error)}"
        except Stopped:
            raise
        except Exception as error:  # whatever one photo does to a library must not end the batch
            record["error"] = f"cannot retouch {job.source}: {first_line(error)}"
    return record


def stamp(path: Any) -> list[float] | None:
    """Size in bytes and time of the last change of a file, by which a changed photo is told from the same one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime]


def _retouch(job: Job, retoucher: Retoucher, overwrite: bool, check: Callable[[], None], record: Record) -> None:
    from .sheets import reduced, sheet

    settings = retoucher.settings
    with _seconds(record, "decode"):
        photo = _open(job.source)
    check()
    with _seconds(record, "model"):
        grids = retoucher.grids(photo, 1 + len(job.variants), check)
    with _Delivery(job, overwrite) as delivery:
        shown = [reduced(photo.pixels, *COMPARE_SIZE)] if "compare" in job.extras else []
        for grid, target in zip(grids, (job.retouched, *job.variants), strict=True):
            check()
            with _seconds(record, "apply"):
                retouched = photo.retouch(grid, settings.strength)
            check()
            with _seconds(record, "encode"):
                delivery.save(retouched, target, settings)
            if shown:
                shown.append(reduced(retouched.pixels, *COMPARE_SIZE))
        if shown:
            delivery.save(_picture_of(photo, sheet([shown], gap=8)), job.extras["compare"], settings)
        _write_looks(job, grids[0], photo, settings, delivery, record)
        check()
        delivery.deliver()
    record["outputs"] = {str(target): size for target, size in delivery.sizes.items()}


def _picture_of(photo: Photo, pixels: np.ndarray) -> Photo:
    from ..photo import Photo

    return Photo(pixels, icc_profile=photo.icc_profile)


def _write_looks(job: Job, grid: Any, photo: Photo, settings: Settings, delivery: _Delivery, record: Record) -> None:
    if "look" in job.extras:
        grid.save(delivery.staged(job.extras["look"]))
    for kind, size in (("cube", settings.lut_size), ("haldclut", _HALDCLUT_SIZE)):
        if kind in job.extras:
            from ..look.lut import grid_to_lut

            lut = grid_to_lut(grid, photo.model_view(), size, settings.strength)
            write = lut.save_cube if kind == "cube" else lut.save_haldclut
            write(delivery.staged(job.extras[kind]))
            record.setdefault("lut_delta_e", {})[kind] = {
                "mean": round(lut.error.mean, 3),
                "p95": round(lut.error.p95, 3),
            }


@contextlib.contextmanager
def _seconds(record: Record, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        so_far = record["seconds"].get(stage, 0.0)
        record["seconds"][stage] = round(so_far + time.perf_counter() - started, 4)


def _open(source: Any) -> Photo:
    from ..photo import PhotoError, open_photo

    if is_local(source):
        return open_photo(source)
    with tempfile.TemporaryDirectory(prefix="diffretouch-") as folder:
        copied = Path(folder, source.name)
        try:
            source.fs.get_file(source.path, str(copied))
        except Exception as error:  # every kind of store has its own
            raise PhotoError(f"cannot open {source}: {first_line(error)}") from error
        try:
            return open_photo(copied)
        except PhotoError as error:
            raise PhotoError(str(error).replace(str(copied), str(source))) from None


class _Delivery:
    """The files of one photo on their way: made in hidden folders beside their targets, then moved all together.

    A folder's name follows from the target's, so that what a kill left there is cleared away by the next try.
    """

    def __init__(self, job: Job, overwrite: bool):
        self.job = job
        self.overwrite = overwrite
        self.sizes: dict[Any, int] = {}
        self._staged: dict[Any, Path] = {}
        self._folders: dict[Any, Path] = {}

    def __enter__(self) -> _Delivery:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def staged(self, target: Any) -> Path:
        """Where to write what `target` will hold."""
        if target.parent not in self._folders:
            try:
                self._folders[target.parent] = self._folder(target.parent)
            except OSError as error:
                raise _cannot_save(target, error) from error
        self._staged[target] = self._folders[target.parent] / target.name
        return self._staged[target]

    def _folder(self, parent: Any) -> Path:
        if not is_local(parent):
            return Path(tempfile.mkdtemp(prefix="diffretouch-"))
        parent.mkdir(parents=True, exist_ok=True)
        # By the whole path, as photos of one name in different folders may put their looks into one.
        key = hashlib.sha256(str(self.job.retouched.absolute()).encode()).hexdigest()[:12]
        folder = parent / f".diffretouch-{key}.part"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def save(self, photo: Photo, target: Any, settings: Settings) -> None:
        """Encode a photo as what `target` will hold; errors name the target."""
        from ..photo import PhotoError, save_photo

        staged = self.staged(target)
        try:
            save_photo(photo, staged, overwrite=True, remove_gps=settings.remove_gps)
        except PhotoError as error:
            raise PhotoError(str(error).replace(str(staged), str(target))) from None

    def deliver(self) -> None:
        """Move everything to its target.

        Raises:
            PhotoError: if a target exists, holds something else, and is not to be replaced.
        """
        from ..photo import PhotoError

        for target, staged in self._staged.items():
            try:
                self.sizes[target] = staged.stat().st_size
                self._move(staged, target)
            except FileExistsError:
                raise PhotoError(f"cannot save {target}: it exists already and is another file") from None
            except OSError as error:
                raise _cannot_save(target, error) from error

    def _move(self, staged: Path, target: Any) -> None:
        from ..photo import PhotoError

        in_place = self.job.in_place and target == self.job.retouched
        if not in_place and is_local(target) and _is_same_file(target, self.job.source):
            raise PhotoError(f"cannot save {target}: it is the photo's own source")
        if not is_local(target):
            _upload(staged, target, self.overwrite)
        elif self.overwrite:
            os.replace(staged, target)
        else:
            _move_or_find_same(staged, target)


def _cannot_save(target: Any, error: OSError) -> Exception:
    from ..photo import PhotoError

    return PhotoError(f"cannot save {target}: {error.strerror or first_line(error)}")


def _is_same_file(one: Path, other: Any) -> bool:
    try:
        return is_local(other) and os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _move_or_find_same(staged: Path, target: Path) -> None:
    """Rename that raises FileExistsError where something else has that name; the same bytes are as good."""
    try:
        move_to_new_name(staged, target)
    except FileExistsError:
        if not (target.is_file() and filecmp.cmp(staged, target, shallow=False)):
            raise


def _upload(staged: Path, target: Any, overwrite: bool) -> None:
    from ..photo import PhotoError

    try:
        is_there = not overwrite and target.exists()
        if is_there and target.fs.cat_file(target.path) != staged.read_bytes():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not is_there:
            # Stores show an object when all of it is there, and have no rename to do it with.
            target.fs.put_file(str(staged), target.path)
    except FileExistsError:
        raise
    except Exception as error:  # every kind of store has its own
        raise PhotoError(f"cannot save {target}: {first_line(error)}") from error


# ---------------------------------------------------------------------------------------------------- report


class Report:
    """A JSON-lines file that notes every photo when it is done or has failed, and by which the next run resumes.

    A line holds `source`, `source_stamp` (size and time of change), `outputs` (their sizes by path), `seconds` (by
    stage), `settings` and `error` (null when done); a LUT adds `lut_delta_e`. A photo that was
    tried again has a line per try, of which the last counts.

    Args:
        path: the file; read now, written from `open` on.

    Raises:
        UsageError: if it exists and is no such file, or cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.existed = path.exists()
        self._records: dict[tuple[str, frozenset[str]], Record] = {}
        self._file: Any = None
        if self.existed:
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise UsageError(f"cannot read the report {self.path}: {error.strerror}") from error
        for line in lines[:-1]:  # behind the last line feed lies what a kill cut short
            try:
                record = json.loads(line)
                if record["error"] is None:
                    self._records[record["source"], frozenset(record["outputs"])] = record
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"`report` has to be a new file or the report of an earlier run, got {self.path}"
                ) from None

    def standing(self, job: Job, settings: dict[str, Any]) -> str:
        """What earlier runs did about a photo.

        "done": its files are there, of this photo and these settings (as `Settings.described`). "other": they were
        made from another state of the photo or by other settings. "begun": it may have been broken off. "new": there
        was no earlier run.
        """
        record = self._records.get((str(job.source), frozenset(map(str, job.targets))))
        if record is None:
            return "begun" if self.existed else "new"
        if record["settings"] != settings or record.get("source_stamp") != stamp(job.source):
            return "other"
        sizes = [(found := stamp(target)) and found[0] for target in job.targets]
        return "done" if sizes == [record["outputs"][str(target)] for target in job.targets] else "begun"

    def unfinished(self, jobs: Sequence[Job | Refusal], settings: dict[str, Any]) -> list[Job | Refusal]:
        """The jobs without those that are done."""
        return [job for job in jobs if isinstance(job, Refusal) or self.standing(job, settings) != "done"]

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Keep the file open for `add`; no other run may write it meanwhile.

        Raises:
            UsageError: if another run does, or the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed below)
            _lock(self._file)
        except BlockingIOError:
            raise UsageError(f"another run is writing the report {self.path}") from None
        except OSError as error:
            raise UsageError(f"cannot write the report {self.path}: {error.strerror}") from error
        try:
            self._drop_cut_line()
            yield
        finally:
            self._file.close()

    def _drop_cut_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)

    def add(self, record: Record) -> None:
        """Append one record, handed to the system before this returns."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _lock(file: Any) -> None:
    """Raise BlockingIOError if another process holds the file; a killed one holds nothing."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ------------------------------------------------------------------------------------------------ many photos


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
