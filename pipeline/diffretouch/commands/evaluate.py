"""`diffretouch evaluate`: quality, control and diversity of a model, beside baselines."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch.plan import UsageError
from .arguments import count_between


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_evaluate)
    parser.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a data set")
    parser.add_argument("--model", default="bundled", help="folder or Hub id (default: the bundled model)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the figures and report.html; resumes there",
    )
    parser.add_argument(
        "--beside",
        action="append",
        type=_named_model,
        default=[],
        metavar="NAME=MODEL",
        help="another model to measure at c = 0 in the same tables; repeatable",
    )
    _add_folders(parser)
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--num_photos", type=count_between("num_photos", 1, 10**9), metavar="N", help="(default: all)")
    parser.add_argument(
        "--steps", type=count_between("steps", 1, 1000), help="sampling steps (default: the model's own)"
    )
    parser.add_argument("--seed", type=count_between("seed", 0, 2**32 - 1), default=0, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")


def _add_folders(evaluate: argparse.ArgumentParser) -> None:
    """Arguments of `read_inputs`."""
    evaluate.add_argument(
        "--finished", type=Path, metavar="FOLDER", help="photos that need no retouch (default: an expert's pictures)"
    )
    evaluate.add_argument(
        "--pairs", type=Path, metavar="FOLDER", help="NAME_input and NAME_expert pictures, or folders before and after"
    )
    evaluate.add_argument("--teacher", type=Path, metavar="FOLDER", help="package of the teacher, to measure it too")


def _named_model(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not name or not model:
        raise argparse.ArgumentTypeError(f"`beside` has to be NAME=MODEL, got {text}")
    return name, model


def _run_evaluate(options: argparse.Namespace) -> int:
    names = [name for name, _ in options.beside]
    if len(set(names)) < len(names):
        raise UsageError(f"`beside` has to give every model a name of its own, got {', '.join(names)}")
    from tqdm.auto import tqdm

    from ..evaluation.report import evaluate_to_folder
    from ..evaluation.sections import read_inputs
    from ..tables import format_table

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
                given=read_inputs(options.finished, options.pairs, options.teacher),
                progress=show,
            )
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(" ".join(str(error).split())) from error
    print(format_table(result))
    return 0
