"""`diffretouch retouch`: photos, or folders of them, at their full resolution."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..batch.loop import retouch_files
from ..batch.plan import (
    MADE_OTHERWISE,
    Job,
    Naming,
    Refusal,
    UsageError,
    is_folder,
    is_local,
    is_photo_name,
    place,
    plan,
)
from ..batch.report import Report
from ..batch.retouch import load_signer
from ..batch.settings import Settings
from .arguments import MAX_VARIANTS, SLIDERS, add_model, add_seed, add_sliders, count_between, start_quickly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_retouch)
    add_photos(parser)
    add_sliders(parser)
    parser.add_argument(
        "--variants",
        type=count_between("variants", 0, MAX_VARIANTS),
        default=0,
        metavar="N",
        help="more expert styles",
    )
    add_seed(parser)
    add_model(parser)
    add_writing(parser)
    add_batch(parser)
    looks = add_looks(parser)
    looks.add_argument("--look", metavar="FILE", help="apply a saved retouch instead of asking the model")


def add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="IN", help="photos and folders of photos")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="a file or a folder")


def add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compare", action="store_true", help="also write a side-by-side picture")
    parser.add_argument(
        "--format",
        metavar="EXT",
        help="of files in the folder OUT: jpg, png, webp, tif, heic, avif, jxl (default: IN's)",
    )
    parser.add_argument("--remove-gps", action="store_true", help="leave the place out of what is written")
    parser.add_argument(
        "--quality",
        type=count_between("quality", 1, 100),
        metavar="N",
        help="of JPEG, WebP, HEIC, AVIF and JPEG XL (default: about as the photo's own)",
    )
    parser.add_argument(
        "--no-record", dest="record", action="store_false", help="do not write into the metadata what was done"
    )
    parser.add_argument(
        "--sign",
        nargs=2,
        metavar=("CERT.pem", "KEY.pem"),
        help="sign what was done (C2PA content credentials) with your certificate and its private key",
    )
    parser.add_argument("--allow-damaged", action="store_true", help="retouch what there is of damaged photos")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist, IN too if it is OUT")


def add_batch(parser: argparse.ArgumentParser) -> None:
    batch = parser.add_argument_group("batches")
    batch.add_argument(
        "--again", action="store_true", help="also retouch photos that say that DiffRetouch has retouched them already"
    )
    batch.add_argument("--recursive", action="store_true", help="look into the folders of folders, and repeat them")
    batch.add_argument(
        "--prefer",
        choices=("raw", "jpeg", "both"),
        default="both",
        help="of RAW and JPEG of one name in a folder (default: %(default)s)",
    )
    batch.add_argument(
        "--name", metavar="TEMPLATE", help="of files in the folder OUT: {stem}, {suffix}, {kind}, {number:04}"
    )
    batch.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="manifest, JSON lines, one per photo; repeating a command resumes by it (default for folders: in OUT)",
    )
    batch.add_argument(
        "--workers", type=count_between("workers", 1, 1024), metavar="N", help="photos at once (default: cores)"
    )
    batch.add_argument("--engine", choices=("threads", "ray"), default="threads", help="(default: %(default)s)")
    batch.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a Ray cluster (default: one of this machine's own)"
    )


def add_looks(parser: argparse.ArgumentParser) -> Any:
    looks = parser.add_argument_group("looks", "FILE may hold the fields of --name")
    looks.add_argument("--save-look", metavar="FILE", help="save the retouch, .safetensors")
    looks.add_argument("--cube", metavar="FILE", help="write it as a LUT, the table nearest to it")
    looks.add_argument(
        "--lut-size", type=int, choices=(17, 33, 65), default=33, help="of --cube (default: %(default)s)"
    )
    looks.add_argument("--haldclut", metavar="FILE", help="write it as a HaldCLUT picture")
    return looks


def run_retouch(options: argparse.Namespace) -> int:
    """Also what `match` runs, whose options lack some of these."""
    settings, naming = _settings(options), _naming(options)
    inputs = [place(text) for text in options.photos]
    path = options.report or _default_report(inputs, naming.output)
    report = Report(path) if path else None
    described = settings.described()
    skipped: Counter[str] = Counter()
    jobs = plan(
        inputs,
        naming,
        prefer=options.prefer,
        skipped=skipped,
        recursive=options.recursive,
        overwrite=options.overwrite,
        standing=(lambda job: report.standing(job, described)) if report else (lambda job: "new"),
    )
    if skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        print(f"diffretouch: left out, as they cannot be opened: {kinds}", file=sys.stderr)
    todo = report.unfinished(jobs, described) if report else jobs
    settings = replace(settings, again=settings.again or len(jobs) == 1)
    if len(todo) < len(jobs):
        print(f"diffretouch: {len(jobs) - len(todo)} of {len(jobs)} photos were done already", file=sys.stderr)
    run = {"overwrite": options.overwrite, "report": report, "workers": options.workers, "engine": _engine(options)}
    if options.engine == "threads" and any(isinstance(job, Job) for job in todo):
        start_quickly(options, "model.modeling_affine_grid" if options.look else "model.pipeline_diffretouch")
    with closing(retouch_files(todo, settings, **run)) as records:
        return _follow(records, jobs, len(todo))


def _settings(options: argparse.Namespace) -> Settings:
    given = {field.name: getattr(options, field.name) for field in fields(Settings) if hasattr(options, field.name)}
    settings = Settings(**{**given, "lora": tuple(options.lora), "sign": options.sign and tuple(options.sign)})
    model_only = (*SLIDERS, "seed", "steps", "fast", "model", "lora")
    asked = [name for name in model_only if settings.look and getattr(settings, name) != getattr(Settings(), name)]
    asked += ["variants"] if settings.look and options.variants else []
    if asked:
        raise UsageError(f"`{asked[0]}` has to be left out with `look`, which holds a finished retouch")
    if settings.sign and not settings.record:
        raise UsageError("`sign` has to be left out with `no_record`: it writes down what was done")
    load_signer(settings)  # told before anything is begun
    return settings


def _naming(options: argparse.Namespace) -> Naming:
    extras = {"look": options.save_look, "cube": options.cube, "haldclut": options.haldclut}
    extras = {kind: template for kind, template in extras.items() if template}
    return Naming(place(options.output), options.name, options.variants, options.compare, extras, options.format)


def _default_report(inputs: list[Any], output: Any) -> Path | None:
    """Folders are resumed without being told to; a list of photos leaves no file that was not asked for."""
    is_batch = all(map(is_folder, inputs)) and (is_folder(output) or not is_photo_name(output))
    return output / "diffretouch.jsonl" if is_batch and is_local(output) else None


def _engine(options: argparse.Namespace) -> Any:
    if options.engine == "threads":
        return None
    from ..batch.engine_ray import ray_engine

    return ray_engine(options.ray_address)


def _follow(records: Iterator[dict[str, Any]], jobs: Sequence[Job | Refusal], todo: int) -> int:
    """Show the progress of a batch and, at its end, what failed, in the order of the photos."""
    from tqdm.auto import tqdm

    failures = []
    skipped = 0
    with tqdm(total=todo, unit="photo", disable=todo <= 1, leave=False) as bar:
        for record in records:
            if record["error"]:
                failures.append(record)
            skipped += "skipped" in record
            for output in record["outputs"]:
                tqdm.write(output)
            for note in record.get("notes", ()):
                tqdm.write(f"diffretouch: {record['source']}: {note}", file=sys.stderr)
            for kind, error in record.get("lut_delta_e", {}).items():
                text = f"the {kind} differs by Delta E 2000 {error['mean']:g} on average, {error['p95']:g} at 95%"
                tqdm.write(f"diffretouch: {record['source']}: {text}", file=sys.stderr)
            bar.update()
        bar.leave = True  # before the first photo, only what is wrong with the model or the example is worth a line
    if skipped:
        text = "were left out, as DiffRetouch has retouched them already (--again retouches them once more)"
        print(f"diffretouch: {skipped} of {len(jobs)} photos {text}", file=sys.stderr)
    order = {str(job.source): number for number, job in enumerate(jobs)}
    failures.sort(key=lambda record: order[record["source"]])
    if failures and len(jobs) == 1:
        raise UsageError(failures[0]["error"])
    standing = [failure for failure in failures if failure["error"].endswith(MADE_OTHERWISE)]
    if len(standing) > 1:  # one cause, so one line
        text = f"{len(standing)} of {len(jobs)} photos are there already, {MADE_OTHERWISE}"
        print(f"diffretouch: {text}", file=sys.stderr)
        failures = [failure for failure in failures if failure not in standing]
    for failure in failures:
        print(f"diffretouch: {failure['error']}", file=sys.stderr)
    if failures:
        print(f"diffretouch: {len(failures)} of {len(jobs)} photos failed, the rest is done", file=sys.stderr)
    return 1 if failures or standing else 0
