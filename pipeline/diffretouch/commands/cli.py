"""The command line: `diffretouch retouch IN... -o OUT` with its sheets, and the commands for models and data sets.

Prints one line and exits with 2 for a bad argument or a photo that cannot be read or written. A batch goes on past a
bad photo, names it at the end and exits with 1. An input is replaced only where `-o` names it and `--overwrite` is
given; no other option, and no other photo of a batch, ever touches it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from ..batch.loop import Report, Settings, load_pipeline, retouch_files
from ..batch.plan import (
    Job,
    Naming,
    Refusal,
    UsageError,
    check_photo_name,
    is_folder,
    is_local,
    is_photo_name,
    place,
    plan,
)

SLIDERS = {
    "colorfulness": "muted to vivid",
    "brightness": "dark to bright",
    "contrast": "soft to crisp",
    "temperature": "cool to warm",
}
_VARIANCES = ("fixed_small", "fixed_large")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_MAX_VARIANTS = 32  # they go through the model together, and side by side have to fit into a JPEG


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    options = _parser().parse_args(arguments)
    options.is_program = arguments is None
    try:
        return options.run(options)
    except UsageError as error:
        print(f"diffretouch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffretouch: stopped; every file written so far is complete", file=sys.stderr)
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="diffretouch", description="Expert-quality photo retouching, steered by four sliders.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_retouch(commands)
    _add_sweep(commands)
    _add_variants(commands)
    _add_convert(commands)
    _add_init(commands)
    _add_export(commands)
    _add_push(commands)
    _add_dataset(commands)
    _add_evaluate(commands)
    _add_report(commands)
    return parser


def _add_retouch(commands: Any) -> None:
    retouch = commands.add_parser("retouch", help="retouch photos, or folders of them, at their full resolution")
    retouch.set_defaults(run=_run_retouch)
    retouch.add_argument("photos", nargs="+", metavar="IN", help="photos and folders of photos")
    retouch.add_argument("-o", "--output", required=True, metavar="OUT", help="a file or a folder")
    _add_sliders(retouch)
    retouch.add_argument(
        "--variants", type=_count("variants", 0, _MAX_VARIANTS), default=0, metavar="N", help="more expert styles"
    )
    _add_model(retouch)
    retouch.add_argument("--compare", action="store_true", help="also write a side-by-side picture")
    retouch.add_argument("--remove-gps", action="store_true", help="leave the place out of what is written")
    retouch.add_argument("--overwrite", action="store_true", help="replace files that exist, IN too if it is OUT")
    batch = retouch.add_argument_group("batches")
    batch.add_argument("--recursive", action="store_true", help="look into the folders of folders, and repeat them")
    batch.add_argument(
        "--name", metavar="TEMPLATE", help="of files in the folder OUT: {stem}, {suffix}, {kind}, {number:04}"
    )
    batch.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="JSON lines, one per photo; repeating a command resumes by it (default for folders: in OUT)",
    )
    batch.add_argument(
        "--workers", type=_count("workers", 1, 1024), metavar="N", help="photos at once (default: cores)"
    )
    batch.add_argument("--engine", choices=("threads", "ray"), default="threads", help="(default: %(default)s)")
    batch.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a Ray cluster (default: one of this machine's own)"
    )
    looks = retouch.add_argument_group("looks", "FILE may hold the fields of --name")
    looks.add_argument("--look", metavar="FILE", help="apply a saved retouch instead of asking the model")
    looks.add_argument("--save-look", metavar="FILE", help="save the retouch, .safetensors")
    looks.add_argument("--cube", metavar="FILE", help="write it as a LUT, the table nearest to it")
    looks.add_argument(
        "--lut-size", type=int, choices=(17, 33, 65), default=33, help="of --cube (default: %(default)s)"
    )
    looks.add_argument("--haldclut", metavar="FILE", help="write it as a HaldCLUT picture")


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="one picture of a photo under every slider at five positions")
    sweep.set_defaults(run=_run_sweep)
    _add_sheet(sweep)
    sweep.add_argument("--strength", type=_number("strength", 0, 2), default=1.0, help="0 = the photo, 1 = full")


def _add_variants(commands: Any) -> None:
    variants = commands.add_parser("variants", help="one picture of a photo in several expert styles")
    variants.set_defaults(run=_run_variants)
    _add_sheet(variants)
    _add_sliders(variants)
    variants.add_argument("--count", type=_count("count", 1, _MAX_VARIANTS), default=4, metavar="N", help="of styles")


def _add_sheet(sheet: argparse.ArgumentParser) -> None:
    sheet.add_argument("photo", type=Path, metavar="IN")
    sheet.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a picture file")
    sheet.add_argument("--width", type=_count("width", 64, 2000), default=400, help="of each cell, in pixels")
    sheet.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    _add_model(sheet)


def _add_sliders(parser: argparse.ArgumentParser) -> None:
    for name, meaning in SLIDERS.items():
        parser.add_argument(f"--{name}", type=_number(name, -1.5, 1.5), default=0.0, metavar="X", help=meaning)
    parser.add_argument("--strength", type=_number("strength", 0, 2), default=1.0, help="0 = the photo, 1 = full")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=_count("seed", 0, 2**32 - 1),
        default=0,
        help="of the style, 0 = the middle; variants count up from it",
    )
    sampling = parser.add_mutually_exclusive_group()
    sampling.add_argument("--steps", type=_count("steps", 1, 1000), help="sampling steps (default: the model's own)")
    sampling.add_argument("--fast", action="store_true", help="the fewest steps that lose little")
    parser.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    parser.add_argument("--lora", action="append", default=[], metavar="ID", help="adapter: folder, file or Hub id")
    parser.add_argument("--lora-scale", type=_number("lora_scale", -4, 4), default=1.0, metavar="X", help="its weight")


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="a checkpoint of the published layout to a model folder, or back")
    convert.set_defaults(run=_run_convert)
    convert.add_argument("source", metavar="CKPT", help=".ckpt or .safetensors; with --reverse a folder or Hub id")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a new or empty folder")
    convert.add_argument("--reverse", action="store_true", help="a model to a checkpoint; OUT is the file")
    convert.add_argument(
        "--variance", choices=_VARIANCES, help="fixed_large for PPR10K (default: as recorded, or small)"
    )
    convert.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: as stored)")
    convert.add_argument("--variants", nargs="+", choices=("fp16", "bf16"), default=[], help="further copies")
    convert.add_argument("--without-vae", action="store_true", help="leave out what only training needs")
    convert.add_argument("--shard", default="1GB", metavar="SIZE", help="most bytes per file (default: %(default)s)")


def _add_init(commands: Any) -> None:
    init = commands.add_parser("init", help="an untrained model from Stable Diffusion 1.x or 2.x, to train")
    init.set_defaults(run=_run_init)
    init.add_argument("source", metavar="SD", help="folder or Hub id of a Stable Diffusion model")
    init.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    init.add_argument("--variance", choices=_VARIANCES, default="fixed_small", help="(default: %(default)s)")
    init.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: fp32)")
    init.add_argument("--seed", type=_count("seed", 0, 2**32 - 1), default=0, help="of the new weights")


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write a self-contained model folder, which loads anywhere")
    export.set_defaults(run=_run_export)
    export.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def _add_push(commands: Any) -> None:
    push = commands.add_parser("push", help="push a model, data set or Space folder to the Hub")
    push.set_defaults(run=_run_push)
    push.add_argument("folder", type=Path, metavar="FOLDER")
    push.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub; made if it does not exist")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--pull-request", action="store_true", help="open a pull request instead of writing to main")


def _add_dataset(commands: Any) -> None:
    from .dataset import add_dataset

    add_dataset(commands)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="quality, control and diversity of a model, beside baselines")
    evaluate.set_defaults(run=_run_evaluate)
    evaluate.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a data set")
    evaluate.add_argument("--model", default="bundled", help="folder or Hub id (default: the bundled model)")
    evaluate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the figures and report.html; resumes there",
    )
    evaluate.add_argument(
        "--beside",
        action="append",
        type=_named_model,
        default=[],
        metavar="NAME=MODEL",
        help="another model to measure at c = 0 in the same tables; repeatable",
    )
    evaluate.add_argument("--split", default="test", help="(default: %(default)s)")
    evaluate.add_argument("--num_photos", type=_count("num_photos", 1, 10**9), metavar="N", help="(default: all)")
    evaluate.add_argument("--steps", type=_count("steps", 1, 1000), help="sampling steps (default: the model's own)")
    evaluate.add_argument("--seed", type=_count("seed", 0, 2**32 - 1), default=0, help="(default: %(default)s)")
    evaluate.add_argument("--device", default="cpu", help="(default: %(default)s)")


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="write report.html of a training run, finished or not")
    report.set_defaults(run=_run_report)
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's output_dir")


def _number(name: str, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {text}")
        return value

    return parse


def _count(name: str, least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 20
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"`{name}` has to be an integer in [{least}, {most}], got {text}")
        return int(text)

    return parse


def _run_retouch(options: argparse.Namespace) -> int:
    settings, naming = _settings(options), _naming(options)
    inputs = [place(text) for text in options.photos]
    path = options.report or _default_report(inputs, naming.output)
    report = Report(path) if path else None
    described = settings.described()
    jobs = plan(
        inputs,
        naming,
        recursive=options.recursive,
        overwrite=options.overwrite,
        standing=(lambda job: report.standing(job, described)) if report else (lambda job: "new"),
    )
    todo = report.unfinished(jobs, described) if report else jobs
    if len(todo) < len(jobs):
        print(f"diffretouch: {len(jobs) - len(todo)} of {len(jobs)} photos were done already", file=sys.stderr)
    run = {"overwrite": options.overwrite, "report": report, "workers": options.workers, "engine": _engine(options)}
    if options.engine == "threads" and any(isinstance(job, Job) for job in todo):
        _start_quickly(options, "model.modeling_affine_grid" if options.look else "model.pipeline_diffretouch")
    with closing(retouch_files(todo, settings, **run)) as records:
        return _follow(records, jobs, len(todo))


def _start_quickly(options: argparse.Namespace, module: str) -> None:
    """Leave out what the retouch will not use; a process that is not ours alone may use it later."""
    if options.is_program and not options.lora:
        from .quick_start import import_quickly

        import_quickly(module)


def _settings(options: argparse.Namespace) -> Settings:
    given = {field.name: getattr(options, field.name) for field in fields(Settings)}
    settings = Settings(**{**given, "lora": tuple(options.lora)})
    model_only = (*SLIDERS, "seed", "steps", "fast", "model", "lora")
    asked = [name for name in model_only if settings.look and getattr(settings, name) != getattr(Settings(), name)]
    asked += ["variants"] if settings.look and options.variants else []
    if asked:
        raise UsageError(f"`{asked[0]}` has to be left out with `look`, which holds a finished retouch")
    return settings


def _naming(options: argparse.Namespace) -> Naming:
    extras = {"look": options.save_look, "cube": options.cube, "haldclut": options.haldclut}
    extras = {kind: template for kind, template in extras.items() if template}
    return Naming(place(options.output), options.name, options.variants, options.compare, extras)


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
    with tqdm(total=todo, unit="photo", disable=todo <= 1) as bar:
        for record in records:
            if record["error"]:
                failures.append(record)
            for output in record["outputs"]:
                tqdm.write(output)
            for kind, error in record.get("lut_delta_e", {}).items():
                text = f"the {kind} differs by Delta E 2000 {error['mean']:g} on average, {error['p95']:g} at 95%"
                tqdm.write(f"diffretouch: {record['source']}: {text}", file=sys.stderr)
            bar.update()
    order = {str(job.source): number for number, job in enumerate(jobs)}
    failures.sort(key=lambda record: order[record["source"]])
    if failures and len(jobs) == 1:
        raise UsageError(failures[0]["error"])
    for failure in failures:
        print(f"diffretouch: {failure['error']}", file=sys.stderr)
    if failures:
        print(f"diffretouch: {len(failures)} of {len(jobs)} photos failed, the rest is done", file=sys.stderr)
    return 1 if failures else 0


def _run_sweep(options: argparse.Namespace) -> int:
    def draw(retouch: Any, shown: Any) -> Any:
        from ..batch.sheets import sliders_sheet

        return sliders_sheet(retouch, options.seed)

    return _write_sheet(options, draw)


def _run_variants(options: argparse.Namespace) -> int:
    def draw(retouch: Any, shown: Any) -> Any:
        from ..batch.sheets import seeds_row, sheet

        sliders = {name: getattr(options, name) for name in SLIDERS}
        seeds = range(options.seed, options.seed + options.count)
        return sheet([seeds_row(retouch, shown.pixels, options.photo.stem, seeds, sliders)])

    return _write_sheet(options, draw)


def _write_sheet(options: argparse.Namespace, draw: Callable[[Any, Any], Any]) -> int:
    """Write what `draw` makes of the retouch and the photo; the sheet is in the photo's colour space."""
    check_photo_name("output", options.output)
    if os.path.lexists(options.output) and not options.overwrite:
        raise UsageError(f"{options.output} exists; choose another output or pass --overwrite")
    from ..photo import Photo, PhotoError, open_photo, save_photo

    given = {name: getattr(options, name) for name in ("model", "lora_scale", "steps", "fast")}
    settings = Settings(**given, lora=tuple(options.lora))
    try:
        photo = open_photo(options.photo)
        _start_quickly(options, "model.pipeline_diffretouch")
        pipe = load_pipeline(settings)
        pipe.set_progress_bar_config(disable=True)
        from ..batch.sheets import cell, retouch_with

        shown = cell(photo, options.width)
        retouch = retouch_with(pipe, photo, shown, options.strength, **settings.sampling(pipe))
        sheet = Photo(draw(retouch, shown), icc_profile=photo.icc_profile)
        save_photo(sheet, options.output, overwrite=options.overwrite, source=options.photo)
    except (PhotoError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(options.output)
    return 0


def _run_convert(options: argparse.Namespace) -> int:
    from ..hub.card import read_index, write_model_card
    from ..hub.convert import convert_checkpoint_to_folder, revert_to_original

    def convert() -> str:
        shared: dict[str, Any] = {"dtype": _dtype(options.dtype), "with_vae": not options.without_vae}
        if options.reverse:
            revert_to_original(options.source, options.output, **shared)
            return str(options.output)
        convert_checkpoint_to_folder(
            options.source,
            options.output,
            variance_type=options.variance,
            variants=options.variants,
            max_shard_size=options.shard,
            **shared,
        )
        write_model_card(options.output)
        notice = (read_index(options.output).get("provenance") or {}).get("notice")
        return f"{options.output}\n{notice}" if notice else str(options.output)

    return _one_line(convert)


def _run_init(options: argparse.Namespace) -> int:
    from ..hub.convert import pipeline_from_stable_diffusion
    from ..hub.upload import export

    def init() -> str:
        dtype = {} if options.dtype is None else {"dtype": _dtype(options.dtype)}
        pipe = pipeline_from_stable_diffusion(
            options.source, variance_type=options.variance, seed=options.seed, **dtype
        )
        return str(export(pipe, options.output))

    return _one_line(init)


def _dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, _DTYPES[name])


def _one_line(work: Callable[[], str]) -> int:
    """Do the work and print what it returns; 0, or 1 and one line where the disk or the Hub fails."""
    from ..hub.upload import HubError

    try:
        print(work())
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    except (HubError, OSError) as error:
        print(f"diffretouch: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _run_export(options: argparse.Namespace) -> int:
    from .. import BUNDLED_MODEL
    from ..hub.upload import export

    return _one_line(lambda: str(export(options.model or BUNDLED_MODEL, options.output)))


def _run_push(options: argparse.Namespace) -> int:
    from ..hub.upload import push

    def send() -> str:
        commit = push(
            options.folder,
            options.repo_id,
            private=options.private or None,
            commit_message=options.message,
            create_pr=options.pull_request,
        )
        return str(commit.pr_url or commit.repo_url)

    return _one_line(send)


def _named_model(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not name or not model:
        raise argparse.ArgumentTypeError(f"`beside` has to be NAME=MODEL, got {text}")
    return name, model


def _run_evaluate(options: argparse.Namespace) -> int:
    names = [name for name, _ in options.beside]
    if len(set(names)) < len(names):
        raise UsageError(f"`beside` has to give every model a name of its own, got {', '.join(names)}")
    try:
        from ..evaluation.measure import format_table
        from ..evaluation.report import evaluate_to_folder
    except ImportError as error:
        raise UsageError(f"evaluating needs the package {error.name}: pip install 'diffretouch[train]'") from error
    from tqdm.auto import tqdm

    with tqdm(unit="photo") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            result = evaluate_to_folder(
                options.model,
                options.dataset,
                options.output,
                split=options.split,
                seed=options.seed,
                num_inference_steps=options.steps,
                num_photos=options.num_photos,
                beside=dict(options.beside),
                device=options.device,
                progress=show,
            )
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(" ".join(str(error).split())) from error
    print(format_table(result))
    return 0


def _run_report(options: argparse.Namespace) -> int:
    from ..training.validation import write_training_report

    try:
        print(write_training_report(options.folder))
    except (OSError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
