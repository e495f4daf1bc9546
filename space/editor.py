"""What the page does to photos, without the page: open, predict a look, preview it, finish at full quality.

Only what a slider changes runs again: the photo is decoded once per upload, and what stays in memory of it is the
view that the model sees and a preview-size copy.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import strings
import torch
from settings import Settings
from visitors import Visitors

from diffretouch import BUNDLED_MODEL, AffineGrid, DiffRetouchPipeline, Look, match_look, open_photo, save_photo
from diffretouch.attributes import attribute_scores, attribute_view
from diffretouch.batch.delivery import first_line
from diffretouch.batch.settings import BY_A_LOOK, done_by
from diffretouch.look.lut import grid_to_lut
from diffretouch.look.match import Match
from diffretouch.photo import Photo, PhotoError, saved_suffix, was_retouched

try:
    from spaces import GPU  # Hugging Face lends a GPU to functions marked so
except ImportError:

    def GPU(function):  # noqa: N802 (the name that Spaces look for)
        return function


MAX_SEED = 2**32 - 1
_LUT_SIZE = 33
_KEEP_MODELS = 2  # beside the default one

AnyLook = AffineGrid | Look  # of one photo, or for every photo


class Refused(ValueError):
    """What was asked for is not possible; the message is one sentence for the visitor."""


class Finished(NamedTuple):
    """A file of full quality, and what was lost on the way to it, a sentence each."""

    path: Path
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Upload:
    """One opened photo.

    Attributes:
        path: the uploaded file.
        name: its own name, without folders.
        view: (1, 3, S, S) in [0, 1], what the model sees.
        preview: (h, w, 3) uint8, sRGB, for the screen.
        before: picture file of the preview.
        scores: the four attribute scores of the photo.
    """

    path: Path
    name: str
    view: torch.Tensor
    preview: np.ndarray
    before: Path
    scores: tuple[float, ...]


class Models:
    """The pipelines in use. A model that fails to load leaves the others working."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._loaded: OrderedDict[tuple[str, str], DiffRetouchPipeline] = OrderedDict()
        self.default = (settings.model, settings.adapter)
        self.get(self.default)

    def get(self, key: tuple[str, str]) -> DiffRetouchPipeline:
        """The pipeline of (model, LoRA adapter), loaded when first asked for.

        Raises:
            Refused: if it cannot be loaded, or is a folder where folders are not allowed.
        """
        pipe = self._known(key)
        if pipe is None:
            with self._loading:  # one at a time, while the others go on with the models that are there
                pipe = self._known(key)
                if pipe is None:
                    pipe = self._load(*key)
                    self._remember(key, pipe)
        return pipe

    def _known(self, key: tuple[str, str]) -> DiffRetouchPipeline | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _remember(self, key: tuple[str, str], pipe: DiffRetouchPipeline) -> None:
        with self._lock:
            self._loaded[key] = pipe
            others = [known for known in self._loaded if known not in (self.default, key)]
            for old in others[: max(0, len(others) - _KEEP_MODELS + 1)]:
                del self._loaded[old]

    def licence(self, key: tuple[str, str]) -> str:
        """The licence that a loaded model names."""
        provenance = self.get(key).config.provenance or {}
        return provenance.get("license_name") or provenance.get("license") or "Apache-2.0"

    def _load(self, model: str, adapter: str) -> DiffRetouchPipeline:
        for name in (model, adapter):
            if not self._is_operators(name) and not _is_hub_id(name):
                raise Refused(strings.NO_FOLDERS.format(model=name))
        # What the operator's token opens is not for every visitor.
        model_token, adapter_token = (None if self._is_operators(name) else False for name in (model, adapter))
        try:
            pipe = DiffRetouchPipeline.from_pretrained(model or BUNDLED_MODEL, token=model_token)
            if adapter:
                pipe.load_lora_weights(adapter, token=adapter_token)
        except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise Refused(" ".join(str(error).split())) from error
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(_best_device())

    def _is_operators(self, name: str) -> bool:
        """Whether `name` was chosen by who runs the page, or its visitors are trusted as much."""
        return self._settings.allow_folders or name in ("", self._settings.model, self._settings.adapter)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class Workroom:
    """Folders for results, each deleted some minutes after it was made."""

    def __init__(self, root: Path, keep_minutes: float):
        self._root, self._keep = root, keep_minutes * 60
        root.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._clean_for_ever, daemon=True).start()

    def folder(self) -> Path:
        """A new empty folder."""
        self._root.mkdir(parents=True, exist_ok=True)  # a system's own cleaner may have taken it
        return Path(tempfile.mkdtemp(dir=self._root))

    def clean(self) -> None:
        """Delete what is older than allowed."""
        for folder in self._root.iterdir():
            with suppress(FileNotFoundError):  # a batch deletes its results itself
                if time.time() - folder.stat().st_mtime > self._keep:
                    shutil.rmtree(folder, ignore_errors=True)

    def _clean_for_ever(self) -> None:
        while True:
            time.sleep(min(60, self._keep))
            self.clean()


class Editor:
    """Everything that a visitor can ask for, as plain functions of files and numbers."""

    def __init__(self, settings: Settings, work_folder: Path):
        self.settings = settings
        self.models = Models(settings)
        self.visitors = Visitors(settings.max_per_minute)
        self._work = Workroom(work_folder, settings.keep_minutes)
        # The schedulers of diffusers keep the state of a run: one run at a time per process.
        self._turn = threading.Lock()

    # ---- the photo ---------------------------------------------------------------------------------------------

    def open(self, path: str | Path, model: tuple[str, str]) -> Upload:
        """Decode an uploaded photo once.

        Raises:
            Refused: naming the file and the reason.
        """
        pixels = self._decoded(Path(path)).model_view()
        view = self.models.get(model).photo_view(pixels)
        preview = shrunk(pixels, self.settings.preview_side)
        before = write_preview(preview, self.new_folder() / "before.jpg")
        return Upload(Path(path), Path(path).name, view, preview, before, _scores(view))

    def _decoded(self, path: Path) -> Photo:
        try:
            return open_photo(path, max_pixels=int(self.settings.max_megapixels * 1e6))
        except PhotoError as error:
            # The visitor knows the file by its name, not by where the server keeps it.
            raise Refused(str(error).replace(str(path), path.name)) from error

    def keep(self, upload: Upload) -> None:
        """Let the files of a photo in use live on.

        Raises:
            Refused: if they are gone already.
        """
        try:
            for path in (upload.path, upload.before.parent):
                os.utime(path)
        except FileNotFoundError as error:
            raise Refused(strings.EXPIRED.format(minutes=self.settings.keep_minutes)) from error

    # ---- the look ----------------------------------------------------------------------------------------------

    def looks(
        self, model: tuple[str, str], view: torch.Tensor, sliders: dict[str, float], seeds: Sequence[int]
    ) -> list[AffineGrid]:
        """One look per seed for a photo seen as `view`.

        Raises:
            Refused: if the model cannot be loaded or a number is out of its range.
        """
        bad = [seed for seed in seeds if type(seed) is not int or not 0 <= seed <= MAX_SEED]
        if bad:
            raise Refused(strings.BAD_SEED.format(most=MAX_SEED, seed=bad[0]))
        pipe = self.models.get(model)
        try:
            with self._turn:
                return _predict(pipe, view, sliders, list(seeds))
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error

    def match(self, model: tuple[str, str], upload: Upload, path: str | Path) -> Match:
        """The retouch of a photo whose tones and colours are nearest to those of the photo in another file.

        Raises:
            Refused: if that is no photo, or has nothing to match.
        """
        pipe = self.models.get(model)
        wanted = self._decoded(Path(path)).model_view()
        try:
            with self._turn:
                return _matched(pipe, upload.view, wanted)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error

    def read_look(self, path: str | Path) -> Look:
        """A look file.

        Raises:
            Refused: if it is none.
        """
        try:
            return Look.load(path)
        except (OSError, ValueError) as error:
            raise Refused(str(error).replace(str(path), Path(path).name)) from error

    def save_look(self, upload: Upload, look: AnyLook) -> Path:
        """The look as a `.safetensors` file."""
        target = self.new_folder() / f"{Path(upload.name).stem}-look.safetensors"
        look.save(target)
        return target

    def write_look(self, upload: Upload, look: AnyLook, strength: float) -> tuple[list[Path], float, float]:
        """The look as `.safetensors` and as `.cube`, and the mean and 95th percentile Delta E 2000 of the latter."""
        saved = self.save_look(upload, look)
        cube = saved.with_suffix(".cube")
        lut = grid_to_lut(_grid_on(upload.preview, look), upload.preview, size=_LUT_SIZE, strength=strength)
        lut.save_cube(cube)
        return [saved, cube], lut.error.mean, lut.error.p95

    # ---- the results -------------------------------------------------------------------------------------------

    def preview(self, upload: Upload, look: AnyLook, strength: float) -> tuple[Path, tuple[float, ...]]:
        """Preview-size picture file of the retouched photo, and its four attribute scores."""
        try:
            retouched = look.apply(upload.preview, strength)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error
        after = write_preview(retouched, self.new_folder() / "after.jpg")
        return after, _scores(look.apply(upload.view, strength))

    def finish(
        self,
        path: str | Path,
        strength: float,
        remove_gps: bool,
        *,
        look: AnyLook | None = None,
        again: bool = True,
        **ask: Any,
    ) -> Finished:
        """The retouched photo as a file of full quality, called `NAME-retouched.EXT`.

        Args:
            path: the uploaded file.
            strength: of the retouch, in [0, 2].
            remove_gps: leave out where the photo was taken.
            again: also where the photo says that it was retouched here before.
            look: what to apply; None = the photo's own retouch, for `ask`: `model`, `sliders` and `seed`.

        Raises:
            Refused: naming the file and the reason.
        """
        path = Path(path)
        photo = self._decoded(path)
        if not again and was_retouched(photo):
            raise Refused(strings.RETOUCHED_ALREADY.format(name=path.name))
        if look is None:
            view = self.models.get(ask["model"]).photo_view(photo.model_view())
            (applied,) = self.looks(ask["model"], view, ask["sliders"], [ask["seed"]])
        else:
            applied = _grid_on(photo.model_view(), look)
        target = self.new_folder() / f"{path.stem}-retouched{saved_suffix(path)}"
        try:
            retouched = photo.retouch(applied, strength)
            done = done_by(ask["sliders"] if look is None else BY_A_LOOK, strength)
            notes = save_photo(retouched, target, remove_gps=remove_gps, done=done)
        except (MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise Refused(first_line(error).replace(str(target), target.name)) from error
        return Finished(target, tuple(dict.fromkeys((*photo.notes, *notes))))

    @contextmanager
    def finished(self, *args: Any, **kwargs: Any) -> Iterator[Finished]:
        """As `finish`, for a file that is not kept: a batch holds one result at a time."""
        result = self.finish(*args, **kwargs)
        try:
            yield result
        finally:
            shutil.rmtree(result.path.parent)

    def new_folder(self) -> Path:
        """A folder for results."""
        return self._work.folder()


@GPU
def _predict(
    pipe: DiffRetouchPipeline, view: torch.Tensor, sliders: dict[str, float], seeds: list[int]
) -> list[AffineGrid]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    asked: dict[str, Any] = {**sliders, "num_variants": len(seeds), "generator": generators, "output_type": "grid"}
    out: Any = pipe(view, **asked)
    return [grid.to("cpu") for grid in out.grids]


@GPU
def _matched(pipe: DiffRetouchPipeline, view: torch.Tensor, wanted: np.ndarray) -> Match:
    return match_look(pipe, view[0], wanted)


def _grid_on(photo: np.ndarray, look: AnyLook) -> AffineGrid:
    return look.for_photo(photo) if isinstance(look, Look) else look


def _scores(view: torch.Tensor) -> tuple[float, ...]:
    return tuple(attribute_scores(attribute_view(view))[0].tolist())


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) of 8 or 16 bits -> uint8 of at most `side` pixels on the longer side."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # good enough for a screen
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((side, side), reducing_gap=2.0)
    return np.asarray(picture)


def write_preview(pixels: np.ndarray, path: Path) -> Path:
    """Pixels (h, w, 3) uint8 as a picture for the screen."""
    PIL.Image.fromarray(pixels).save(path, quality=90)
    return path
