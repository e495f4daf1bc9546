"""One photo from file to file, and the model or look that it is retouched by."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model import BUNDLED_MODEL
from .delivery import Delivery, first_line
from .plan import Job, UsageError, is_local
from .report import Record, stamp
from .settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from ..look.match import Match, Tones
    from ..photo import Photo, Signer

COMPARE_SIZE = (1280, 720)  # most pixels of each picture; a side-by-side picture is for looking at, not for keeping
RETOUCHED_ALREADY = "DiffRetouch has retouched it already"
_HALDCLUT_SIZE = 64  # level 8, the one that every program reads


class Stopped(Exception):
    """Work was broken off between two stages because the batch is being stopped."""


class Retoucher:
    """The model, or the look that stands in for it: photos in, affine grids out, from any number of threads.

    Raises:
        UsageError: if the model, an adapter or the look cannot be loaded, `match` is nothing to come near, or `sign`
            cannot sign.
    """

    def __init__(self, settings: Settings, show_steps: str | None = None):
        self.settings = settings
        self.described = settings.described()
        self.signer = load_signer(settings)
        self._own = threading.local()
        self._look = None if settings.look is None else _load_look(settings.look)
        self._pipe = None if self._look else load_pipeline(settings)
        if self._pipe:
            is_shown = show_steps is not None and not settings.match
            self._pipe.set_progress_bar_config(disable=not is_shown, desc=show_steps, leave=False)
        self._wanted = None if settings.match is None else _load_example(self._pipe, settings.match)

    def grids(self, photo: Photo, count: int, check: Callable[[], None]) -> list[Any]:
        """`count` styles of one photo; `check` is called between steps, and may raise to break off."""
        if self._look:
            return [self._look.for_photo(photo.model_view())] * count
        import torch

        return self._asked(
            lambda pipe, view, **call: pipe(view, output_type="grid", **call).grids,
            photo,
            check,
            **self.settings.sliders,
            num_variants=count,
            generator=[torch.Generator().manual_seed(self.settings.seed + i) for i in range(count)],
        )

    def match(self, photo: Photo, check: Callable[[], None]) -> Match:
        """The retouch nearest to the example of the settings."""
        from ..look.match import match_look

        return self._asked(lambda pipe, view, **call: match_look(pipe, view, self._wanted, **call), photo, check)

    def _asked(self, ask: Callable[..., Any], photo: Photo, check: Callable[[], None], **call: Any) -> Any:
        """`ask` this thread's pipeline about a photo."""
        pipe = self._thread_pipe()

        def between_steps(pipe: Any, step: int, timestep: Any, tensors: dict) -> dict:
            check()
            return tensors

        return ask(
            pipe, photo.model_view(), **call, **self.settings.sampling(pipe), callback_on_step_end=between_steps
        )

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

    from ..model.pipeline_diffretouch import DiffRetouchPipeline

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


def load_signer(settings: Settings) -> Signer | None:
    """What the settings say to sign with, tried out.

    Raises:
        UsageError: if it cannot sign.
    """
    if settings.sign is None:
        return None
    from ..photo import Signer

    try:
        return Signer(*settings.sign)
    except (ImportError, ValueError) as error:
        raise UsageError(f"`sign` has to be a certificate and its private key: {first_line(error)}") from error


def _load_look(path: str) -> Any:
    from ..look.look import Look

    try:
        return Look.load(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UsageError(f"`look` has to be a saved retouch, got {path}: {reason}") from error


def _load_example(pipe: Any, path: str) -> Tones:
    from ..look.match import reference_tones
    from ..photo import open_photo

    try:
        return reference_tones(pipe, open_photo(path).model_view())
    except ValueError as error:  # a PhotoError is one
        raise UsageError(f"cannot match {path}: {first_line(error)}") from error


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
            with _at_hand(job.source) as path:
                _retouch(job, path, retoucher, overwrite, check, record)
        except PhotoError as error:
            record["error"] = str(error)
        except OSError as error:
            record["error"] = f"cannot retouch {job.source}: {error.strerror or first_line(error)}"
        except Stopped:
            raise
        except Exception as error:  # whatever one photo does to a library must not end the batch
            record["error"] = f"cannot retouch {job.source}: {first_line(error)}"
    return record


def _retouch(
    job: Job, path: Path, retoucher: Retoucher, overwrite: bool, check: Callable[[], None], record: Record
) -> None:
    from ..photo import CREDENTIALS_KEPT, CREDENTIALS_LOST, was_retouched
    from .sheets import reduced, sheet

    settings = retoucher.settings
    with _seconds(record, "decode"):
        photo = _open(job.source, path, settings.allow_damaged)
    notes = list(photo.notes)
    if was_retouched(photo):
        if not settings.again:
            record["skipped"] = RETOUCHED_ALREADY
            return
        notes.append("it was retouched by DiffRetouch before, and this retouch comes on top of that")
    check()
    with _seconds(record, "model"):
        grids = _grids(retoucher, photo, 1 + len(job.variants), check, record, notes)
    with Delivery(job, overwrite) as delivery:
        shown = [reduced(photo.pixels, *COMPARE_SIZE)] if "compare" in job.extras else []
        for grid, target in zip(grids, (job.retouched, *job.variants), strict=True):
            check()
            with _seconds(record, "apply"):
                retouched = photo.retouch(grid, settings.strength)
            check()
            with _seconds(record, "encode"):
                notes += delivery.save(retouched, target, settings, settings.done, retoucher.signer, path)
            if shown:
                shown.append(reduced(retouched.pixels, *COMPARE_SIZE))
        if shown:
            delivery.save(_picture_of(photo, sheet([shown], gap=8)), job.extras["compare"], settings)
        _write_looks(job, grids[0], photo, settings, delivery, record)
        check()
        delivery.deliver()
    if CREDENTIALS_KEPT in notes and CREDENTIALS_LOST in notes:
        notes.remove(CREDENTIALS_LOST)
    if notes:
        record["notes"] = list(dict.fromkeys(notes))
    record["outputs"] = {str(target): size for target, size in delivery.sizes.items()}


def _grids(
    retoucher: Retoucher, photo: Photo, count: int, check: Callable[[], None], record: Record, notes: list[str]
) -> list[Any]:
    if retoucher.settings.match is None:
        return retoucher.grids(photo, count, check)
    found = retoucher.match(photo, check)
    record["match"] = found.figures
    notes.append(found.summary)
    return [found.grid]


def _picture_of(photo: Photo, pixels: np.ndarray) -> Photo:
    from ..photo import Photo

    return Photo(pixels, icc_profile=photo.icc_profile)


def _write_looks(job: Job, grid: Any, photo: Photo, settings: Settings, delivery: Delivery, record: Record) -> None:
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


@contextlib.contextmanager
def _at_hand(source: Any) -> Iterator[Path]:
    """The photo as a file of this machine."""
    from ..photo import PhotoError

    if is_local(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="diffretouch-") as folder:
        copied = Path(folder, source.name)
        try:
            source.fs.get_file(source.path, str(copied))
        except Exception as error:  # every kind of store has its own
            raise PhotoError(f"cannot open {source}: {first_line(error)}") from error
        yield copied


def _open(source: Any, path: Path, allow_damaged: bool) -> Photo:
    from ..photo import PhotoError, open_photo

    try:
        return open_photo(path, allow_damaged=allow_damaged)
    except PhotoError as error:
        raise PhotoError(str(error).replace(str(path), str(source))) from None
