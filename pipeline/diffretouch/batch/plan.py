"""Which photos a batch retouches and what the files of each are called, checked before any work.

A photo's place is a `pathlib.Path`, or a `upath.UPath` for an address such as `s3://shoot/a.jpg`: every function here
takes both.
"""

from __future__ import annotations

import os
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

NAME_FIELDS = ("stem", "suffix", "kind", "number")
"""What a name template may hold: the photo's name without extension, the retouch's extension, the photo's extension
without its dot, and the photo's place in the batch from 1."""

# A folder may be called anything, but nobody means one by these.
_OTHER_SUFFIXES = {".bmp", ".dng", ".gif", ".jp2", ".pdf", ".psd"}

MADE_OTHERWISE = "made with other settings; choose another output or pass --overwrite"
"""How a `Refusal` ends whose file is there from a run with other sliders or options."""


class UsageError(Exception):
    """What the user asked for cannot be done as asked; nothing was started."""


@dataclass(frozen=True)
class Job:
    """One photo and the files that its retouch writes; `extras` by kind: "compare", "look", "cube", "haldclut"."""

    source: Any
    retouched: Any
    variants: tuple[Any, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    in_place: bool = False

    @property
    def targets(self) -> list[Any]:
        return [self.retouched, *self.variants, *self.extras.values()]


@dataclass(frozen=True)
class Refusal:
    """One photo, folder or link that is not retouched, and the sentence that says why."""

    source: Any
    reason: str


@dataclass(frozen=True)
class Naming:
    """What the files of a retouch are called.

    Args:
        output: a file, or the folder that the tree of the photos is repeated in.
        name: the retouch's name, of `NAME_FIELDS` in braces; None = "{stem}-retouched{suffix}".
        format: the retouch's extension, without its dot; None = by each photo, see `saved_suffix`.
        variants: how many further styles, each a file "{stem}-variant-N{suffix}".
        compare: whether to write "{stem}-compare.jpg".
        extras: templates of whole paths by kind, "look" | "cube" | "haldclut".
    """

    output: Any
    name: str | None = None
    variants: int = 0
    compare: bool = False
    extras: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None

    def suffix(self, source: Any) -> str:
        """The extension that the retouch of a photo gets."""
        from ..photo import saved_suffix

        return f".{self.format}" if self.format else saved_suffix(source.name)


@dataclass(frozen=True, eq=False)
class _Found:
    source: Any
    below: PurePosixPath = PurePosixPath()  # the folders between the one that was named and the photo
    is_named: bool = True  # by the user, and not found in a folder


def place(text: str) -> Any:
    """The `Path` or `UPath` of a path or an address.

    Raises:
        UsageError: if the address is of no known kind, or the package that reads it is missing.
    """
    if "://" not in text:
        return Path(text)
    scheme, _, rest = text.partition("://")
    if scheme in ("file", "local"):
        return Path(rest)
    try:
        from upath import UPath

        address = UPath(text)
        address.fs  # noqa: B018 (the package behind an address is looked for on first use)
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot use {text}: {error}") from error
    return address


def is_local(path: Any) -> bool:
    """Whether `path` is a file of this machine."""
    return isinstance(path, Path)


def exists(path: Any) -> bool:
    """Whether there is anything at `path`, a dangling link too."""
    return os.path.lexists(path) if is_local(path) else path.exists()


def is_folder(path: Any) -> bool:
    """Whether `path` is a folder; not if it may not be looked at, or its name is longer than names can be."""
    return os.path.isdir(path) if is_local(path) else path.is_dir()


def is_photo_name(path: Any) -> bool:
    """Whether a retouch can be saved under that name."""
    from ..photo import SAVED_SUFFIXES

    return path.suffix.lower() in SAVED_SUFFIXES


def check_photo_name(name: str, path: Any, allowed: str = "to end in") -> None:
    """Raise UsageError unless `is_photo_name`."""
    from ..photo import SAVED_SUFFIXES

    if not is_photo_name(path):
        raise UsageError(f"`{name}` has {allowed} {', '.join(SAVED_SUFFIXES)}, got {path}")


def find_photos(
    inputs: Iterable[Any], recursive: bool = False, output: Any = None, skipped: Counter[str] | None = None
) -> Iterator[_Found | Refusal]:
    """The photos that `inputs` name: files as they are, folders by the extensions of their files, in order of name.

    Hidden files and folders are left out, and so is the folder `output` inside of an input. Links to folders are
    followed, except back to a folder on the way. `skipped` counts the pictures and videos in folders that cannot be
    opened, by extension.
    """
    skipped = Counter() if skipped is None else skipped
    for entry in inputs:
        if not is_folder(entry):
            yield _Found(entry)
            continue
        inside = list(_walk(entry, PurePosixPath(), recursive, _identity(output), (), skipped))
        hint = "" if recursive else " (pass --recursive to look into its folders)"
        yield from inside or [Refusal(entry, f"cannot open {entry}: it is a folder without photos{hint}")]


def _walk(
    folder: Any, below: PurePosixPath, recursive: bool, output: Any, above: tuple[Any, ...], skipped: Counter[str]
) -> Iterator[_Found | Refusal]:
    from ..photo import OPENED_SUFFIXES, SKIPPED_SUFFIXES

    here = _identity(folder)
    if here in above:
        yield Refusal(folder, f"cannot open {folder}: it is a link back to {here}")
        return
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        yield Refusal(folder, f"cannot open {folder}: {error.strerror or error}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if is_folder(entry):
            if recursive and _identity(entry) != output:
                yield from _walk(entry, below / entry.name, recursive, output, (*above, here), skipped)
        elif entry.suffix.lower() in OPENED_SUFFIXES:
            yield _Found(entry, below, is_named=False)
        elif entry.suffix.lower() in SKIPPED_SUFFIXES:
            skipped[entry.suffix.lower()] += 1


def _preferred(items: Iterable[_Found | Refusal], prefer: str) -> list[_Found | Refusal]:
    """Without the other file of each pair of camera RAW and rendered photo of one name in one folder."""
    from ..photo import RAW_SUFFIXES

    items = list(items)
    raws = {_pair(item) for item in items if _is_found(item) and item.source.suffix.lower() in RAW_SUFFIXES}
    rendered = {_pair(item) for item in items if _is_found(item) and item.source.suffix.lower() not in RAW_SUFFIXES}
    unwanted = {"both": (), "raw": raws, "jpeg": rendered}[prefer]
    return [
        item
        for item in items
        if not _is_found(item)
        or _pair(item) not in unwanted
        or (item.source.suffix.lower() in RAW_SUFFIXES) == (prefer == "raw")
    ]


def _is_found(item: _Found | Refusal) -> TypeGuard[_Found]:
    return isinstance(item, _Found) and not item.is_named


def _pair(item: _Found) -> tuple[Any, str]:
    return item.source.parent, item.source.stem.casefold()


def _identity(path: Any) -> Any:
    """Equal for two names of one file or folder."""
    return Path(os.path.realpath(path)) if is_local(path) else path


def plan(
    inputs: Iterable[Any],
    naming: Naming,
    *,
    recursive: bool = False,
    overwrite: bool = False,
    prefer: str = "both",
    skipped: Counter[str] | None = None,
    standing: Callable[[Job], str] = lambda job: "new",
) -> list[Job | Refusal]:
    """Name every file before any work, so that a clash costs nothing.

    Args:
        inputs: photos and folders.
        naming: what their files are called.
        recursive: look into the folders of folders.
        overwrite: files that exist are replaced.
        prefer: of camera RAW and rendered photos of one name in one folder: "raw", "jpeg" or "both".
        skipped: counts the pictures and videos in folders that cannot be opened, by extension.
        standing: what an earlier run did about a photo: "new", "done", "begun" or "other" (other settings).

    Returns:
        In order, one job per photo or why there is none. A photo that the user named always has one: its clash raises.

    Raises:
        UsageError: if the output cannot be used, or a photo that was named clashes with another photo or a file.
    """
    output = naming.output
    items = _preferred(find_photos(inputs, recursive, output, skipped), prefer)
    found = [item for item in items if isinstance(item, _Found)]
    to_file = is_photo_name(output) and not is_folder(output)
    if output.suffix.lower() in _OTHER_SUFFIXES and not is_folder(output):
        check_photo_name("output", output, "to be a folder or end in")
    if to_file and len(found) > 1:
        raise UsageError(f"`output` has to be a folder for {len(found)} photos, got {output}")
    for option in ("name", "format"):
        if to_file and getattr(naming, option):
            got = f"got {getattr(naming, option)} and {output}"
            raise UsageError(f"`{option}` has to be left out where `output` is a file, {got}")
    _check_format(naming.format)
    _check_template("name", naming.name or "")
    for kind, template in naming.extras.items():
        _check_template(kind, template)
    make = _job_to_file if to_file else _job_to_folder
    jobs = {item: make(item, number, naming, overwrite) for number, item in enumerate(found, start=1)}
    jobs = _with_distinct_comparisons(jobs)
    outcome = _without_clashes(jobs, overwrite, standing)
    _check_folder(output.parent if to_file else output)
    entries = [outcome.get(item) if isinstance(item, _Found) else item for item in items]
    return [entry for entry in entries if entry is not None]


def _job_to_file(item: _Found, number: int, naming: Naming, overwrite: bool) -> Job:
    output = naming.output
    in_place = overwrite and _identity(output) == _identity(item.source)
    return _job(item, number, naming, output.parent, output.stem, output, in_place)


def _job_to_folder(item: _Found, number: int, naming: Naming, overwrite: bool) -> Job:
    folder = naming.output.joinpath(*item.below.parts)
    if naming.name is None:
        retouched = folder / f"{item.source.stem}-retouched{naming.suffix(item.source)}"
        return _job(item, number, naming, folder, item.source.stem, retouched)
    name = naming.name.format(**_fields(item, number, naming))
    if Path(name).name != name:
        raise UsageError(f"`name` has to give the name of a file, without folders, got {name}")
    check_photo_name("name", Path(name))
    if naming.format and Path(name).suffix != naming.suffix(item.source):
        raise UsageError(f"`name` has to end in {{suffix}} where there is a `format`, got {naming.name}")
    return _job(item, number, naming, folder, Path(name).stem, folder / name)


def _job(
    item: _Found, number: int, naming: Naming, folder: Any, stem: str, retouched: Any, in_place: bool = False
) -> Job:
    suffix = retouched.suffix
    extras = {"compare": folder / f"{stem}-compare.jpg"} if naming.compare else {}
    for kind, template in naming.extras.items():
        extras[kind] = place(template.format(**_fields(item, number, naming)))
    variants = tuple(folder / f"{stem}-variant-{i}{suffix}" for i in range(1, naming.variants + 1))
    return Job(item.source, retouched, variants, extras, in_place)


def _fields(item: _Found, number: int, naming: Naming) -> dict[str, str | int]:
    source = item.source
    return {"stem": source.stem, "suffix": naming.suffix(source), "kind": source.suffix[1:], "number": number}


def _check_format(name: str | None) -> None:
    from ..photo import SAVED_SUFFIXES

    if name is not None and f".{name}" not in SAVED_SUFFIXES:
        allowed = ", ".join(suffix[1:] for suffix in SAVED_SUFFIXES)
        raise UsageError(f"`format` has to be one of {allowed}, got {name}")


def _check_template(option: str, template: str) -> None:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        template.format(**{name: 1 if name == "number" else "a" for name in NAME_FIELDS})
    except (ValueError, LookupError, AttributeError):
        fields = ["?"]
    if not set(fields) <= set(NAME_FIELDS):
        allowed = ", ".join(f"{{{name}}}" for name in NAME_FIELDS)
        raise UsageError(f"`{option}` has to hold no other fields than {allowed}, got {template}")


def _with_distinct_comparisons(jobs: dict[_Found, Job]) -> dict[_Found, Job]:
    """Comparisons of photos that differ only by their kind, as a camera's RAW and JPEG, are called by it as well."""
    names = Counter(_identity(job.extras["compare"]) for job in jobs.values() if "compare" in job.extras)
    distinct = {}
    for item, job in jobs.items():
        compared = job.extras.get("compare")
        if compared is not None and names[_identity(compared)] > 1:
            stem = compared.stem.removesuffix("-compare")
            better = compared.with_name(f"{stem}-{item.source.suffix[1:]}-compare.jpg")
            job = replace(job, extras={**job.extras, "compare": better})
        distinct[item] = job
    return distinct


def _without_clashes(
    jobs: Mapping[_Found, Job], overwrite: bool, standing: Callable[[Job], str]
) -> dict[_Found, Job | Refusal]:
    # A folder that is retouched into itself holds the files of the last run, which are no photos of this one.
    written = {_identity(target) for job in jobs.values() for target in job.targets}
    wanted = {item: job for item, job in jobs.items() if item.is_named or _identity(item.source) not in written}
    sources = {_identity(item.source) for item in wanted}
    owners: dict[Any, Any] = {}
    outcome: dict[_Found, Job | Refusal] = {}
    for item, job in wanted.items():
        clash = _clash(job, owners, sources, overwrite, standing)
        if clash and item.is_named:
            raise UsageError(clash)
        outcome[item] = Refusal(job.source, clash) if clash else job
        if not clash:
            owners |= {_identity(target): job.source for target in job.targets}
    return outcome


def _clash(
    job: Job, owners: Mapping[Any, Any], sources: set[Any], overwrite: bool, standing: Callable[[Job], str]
) -> str | None:
    own: set[Any] = set()
    for target in job.targets:
        identity = _identity(target)
        if identity in owners:
            return f"{owners[identity]} and {job.source} would both be written to {target}"
        if identity in own:
            return f"two files of {job.source} would both be written to {target}"
        own.add(identity)
        if exists(target) and not overwrite and standing(job) in ("new", "other"):
            if standing(job) == "other":
                return f"{target} exists, {MADE_OTHERWISE}"
            return f"{target} exists; choose another output or pass --overwrite"
        if identity in sources and not (job.in_place and target == job.retouched):
            return f"{target} is an input, too; choose another output"
    return None


def _check_folder(folder: Any) -> None:
    """Whether `folder` is there or can be made; it is made only when there is something to put into it."""
    if not is_local(folder):
        return
    nearest = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    if not is_folder(nearest):
        raise UsageError(f"cannot make the folder {folder}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the folder {nearest}: permission denied")
