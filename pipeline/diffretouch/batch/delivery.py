"""Files on their way out: made beside their targets, moved once they are whole.

Nothing here replaces a file unless told to. A retouch is made in a hidden folder beside its target and moved once it
is whole; a target that exists already is left alone, and is an error unless it holds just these bytes, as after a
run that was killed between moving the file and noting it in the report.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import move_to_new_name
from .plan import Job, is_local
from .settings import Settings

if TYPE_CHECKING:
    from ..photo import Photo, Signer


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Delivery:
    """The files of one photo on their way: made in hidden folders beside their targets, then moved all together.

    A folder's name follows from the target's, so that what a kill left there is cleared away by the next try.
    """

    def __init__(self, job: Job, overwrite: bool):
        self.job = job
        self.overwrite = overwrite
        self.sizes: dict[Any, int] = {}
        self._staged: dict[Any, Path] = {}
        self._signed: set[Any] = set()
        self._folders: dict[Any, Path] = {}

    def __enter__(self) -> Delivery:
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

    def save(
        self,
        photo: Photo,
        target: Any,
        settings: Settings,
        done: str | None = None,
        signer: Signer | None = None,
        source: Path | None = None,
    ) -> tuple[str, ...]:
        """Encode a photo as what `target` will hold, and return what it cannot keep; errors name the target.

        `source` is the photo's own file, as far as this machine has it.
        """
        from ..photo import PhotoError, save_photo

        staged = self.staged(target)
        if signer is not None:
            self._signed.add(target)
        try:
            return save_photo(
                photo,
                staged,
                overwrite=True,
                quality=settings.quality,
                remove_gps=settings.remove_gps,
                done=done,
                signer=signer,
                source=source,
            )
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
            _upload(staged, target, self.overwrite, target in self._signed)
        elif self.overwrite:
            os.replace(staged, target)
        else:
            _move_or_find_same(staged, target, target in self._signed)


def _cannot_save(target: Any, error: OSError) -> Exception:
    from ..photo import PhotoError

    return PhotoError(f"cannot save {target}: {error.strerror or first_line(error)}")


def _is_same_file(one: Path, other: Any) -> bool:
    try:
        return is_local(other) and os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _move_or_find_same(staged: Path, target: Path, signed: bool) -> None:
    """Rename that raises FileExistsError where something else has that name; the same content is as good."""
    try:
        move_to_new_name(staged, target)
    except FileExistsError:
        if not (target.is_file() and _is_same(staged, target, signed)):
            raise


def _is_same(staged: Path, other: Path, signed: bool) -> bool:
    """Whether two files hold the same bytes or, as no two signatures are alike, the same photo."""
    from ..photo import PhotoError, open_photo

    same = filecmp.cmp(staged, other, shallow=False)
    if same or not signed:
        return same
    try:
        one, two = open_photo(staged), open_photo(other)
    except PhotoError:
        return False
    return _told(one) == _told(two) and bool((one.pixels == two.pixels).all())


def _told(photo: Photo) -> tuple[Any, ...]:
    """All of a photo but its samples."""
    return photo.pixels.shape, photo.pixels.dtype, photo.exif, photo.xmp, photo.iptc, photo.icc_profile, photo.notes


def _upload(staged: Path, target: Any, overwrite: bool, signed: bool) -> None:
    from ..photo import PhotoError

    try:
        is_there = not overwrite and target.exists()
        if is_there:
            with tempfile.TemporaryDirectory(prefix="diffretouch-") as folder:
                target.fs.get_file(target.path, str(fetched := Path(folder, target.name)))
                if not _is_same(staged, fetched, signed):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        else:
            # Stores show an object when all of it is there, and have no rename to do it with.
            target.fs.put_file(str(staged), target.path)
    except FileExistsError:
        raise
    except Exception as error:  # every kind of store has its own
        raise PhotoError(f"cannot save {target}: {first_line(error)}") from error
