"""`diffretouch dataset pairs | fivek | ppr10k | synthetic`: the arguments, and what is said and returned."""

from __future__ import annotations

import argparse
import inspect
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.build import Report

_MOST_SHOWN = 20  # photos that were left out; build.json has them all
_RULES = ("quantile", "linear", "extreme")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The four builders, each a subcommand."""
    builders = parser.add_subparsers(dest="builder", required=True, parser_class=type(parser))

    pairs = builders.add_parser("pairs", help="from your own folders: photos before and after the retouch")
    pairs.set_defaults(run=run_dataset)
    pairs.add_argument("before", type=Path, metavar="BEFORE_DIR", help="photos as they came")
    pairs.add_argument(
        "after", type=Path, metavar="AFTER_DIR", help="the same retouched; IMG_1-edit.tif for IMG_1.jpg"
    )
    pairs.add_argument("--expert", default="own", metavar="NAME", help="what to call the style (default: own)")
    _add_common(pairs, long_side=768, test=0.1, validation=0.1)

    fivek = builders.add_parser(
        "fivek", help="from MIT-Adobe FiveK as published: raw_photos and tiff16_a ... tiff16_e"
    )
    fivek.set_defaults(run=run_dataset)
    fivek.add_argument("folder", type=Path, metavar="DIR", help="where it was unpacked")
    _add_option(fivek, "test-list", type=Path, metavar="FILE", help="names of the test photos, one a line")
    _add_conditions(fivek)
    _add_common(fivek, long_side=768, test=0.1, validation=0.02)

    ppr10k = builders.add_parser("ppr10k", help="from PPR10K as published: source, target_a, target_b, target_c")
    ppr10k.set_defaults(run=run_dataset)
    ppr10k.add_argument("folder", type=Path, metavar="DIR", help="where it was unpacked")
    _add_conditions(ppr10k)
    _add_common(ppr10k, long_side=768, test=None, validation=0.02)

    synthetic = builders.add_parser("synthetic", help="from any folder of good photos: five documented styles")
    synthetic.set_defaults(run=run_dataset)
    synthetic.add_argument("photos", type=Path, metavar="DIR", help="good photos")
    synthetic.add_argument("--labels", type=Path, metavar="DIR", help="a teacher's answers (label_photos.py)")
    synthetic.add_argument("--teacher", type=Path, metavar="DIR", help="its unpacked package, for flat renditions")
    synthetic.add_argument("--table", type=Path, metavar="FILE", help="names the photos and their splits")
    _add_option(synthetic, "num-inputs", type=int, default=6, metavar="N", help="inputs per scene (default: 6)")
    _add_option(synthetic, "num-scenes", type=int, default=1, metavar="N", help="scenes per photo (default: 1)")
    _add_option(synthetic, "num-pages", type=int, default=0, metavar="N", help="drawn pages of text (default: 0)")
    _add_option(
        synthetic,
        "underexposure",
        type=float,
        default=1.0,
        metavar="X",
        help="factor of how dark, in stops, flat renditions to train on are (default: 1)",
    )
    _add_conditions(synthetic)
    _add_common(synthetic, long_side=320, test=0.1, validation=0.1)


def _add_option(parser: Any, name: str, **arguments: Any) -> None:
    """An option that may also be written with underscores, as the training scripts' are."""
    parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}", **arguments)


def _add_conditions(parser: Any) -> None:
    parser.add_argument(
        "--conditions",
        choices=_RULES,
        default="quantile",
        help="how c follows from the experts' scores; extreme is the paper's (default: quantile)",
    )


def _add_common(parser: Any, long_side: int, test: float | None, validation: float) -> None:
    parser.add_argument(
        "-o", "--output", dest="out", type=Path, required=True, metavar="OUT", help="a new or empty folder"
    )
    _add_option(parser, "long-side", type=int, default=long_side, metavar="PX", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    parser.add_argument(
        "--validation",
        type=float,
        default=validation,
        metavar="F",
        help="fraction of the photos (default: %(default)s)",
    )
    if test is not None:
        parser.add_argument("--test", type=float, default=test, metavar="F", help="likewise (default: %(default)s)")
    _add_option(
        parser,
        "bad-photos",
        choices=("skip", "stop"),
        default="skip",
        help="what broken or misfitting photos do (default: skip, and exit with 1)",
    )
    _add_option(parser, "push-to-hub", metavar="REPO_ID", help="send it there when it is built")
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def run_dataset(options: argparse.Namespace) -> int:
    """Build, report and push; 0, 1 where photos were left out or the Hub failed, 2 on a bad argument.

    A signal to end is taken like Ctrl-C, so that no half-built folder stays.
    """
    from ..photo import PhotoError

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        _check_push(options)
        report = _build(options)
        print(options.out)
    except (PhotoError, OSError) as error:
        refused = isinstance(error, (FileExistsError, FileNotFoundError, NotADirectoryError))
        return _say([str(error)], 2 if refused else 1)
    except ValueError as error:
        return _say([str(error)], 2)
    except KeyboardInterrupt:
        return _say(["stopped; nothing was left behind"], 130)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(_shortened(report.notes, options.out), 0)
    left_out = _shortened(report.left_out, options.out)
    failed = _say([*left_out, f"{len(report.left_out)} photos left out, the rest is built"], 1) if left_out else 0
    return max(failed, _push(options)) if options.push_to_hub else failed


def _shortened(lines: Sequence[str], folder: Path) -> list[str]:
    more = len(lines) - _MOST_SHOWN
    return [*lines[:_MOST_SHOWN], *([f"and {more} more: {folder / 'build.json'}"] if more > 0 else [])]


def _build(options: argparse.Namespace) -> Report:
    from ..data import builders

    builder: Callable[..., Report] = getattr(builders, f"build_{options.builder}")
    taken = inspect.signature(builder).parameters
    return builder(**{name: value for name, value in vars(options).items() if name in taken})


def _check_push(options: argparse.Namespace) -> None:
    """What the Hub would refuse for certain, before the work rather than after it."""
    if options.push_to_hub is None:
        return
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(options.push_to_hub)
    except HFValidationError as error:
        raise ValueError(f"`push_to_hub` has to be NAME or OWNER/NAME, got {options.push_to_hub!r}.") from error
    if options.builder in ("fivek", "ppr10k") and not options.private:
        raise ValueError(f"`private` has to be given to push {options.builder}: its photos may not be passed on.")


def _push(options: argparse.Namespace) -> int:
    from ..hub.upload import HubError, push

    try:
        print(push(options.out, options.push_to_hub, private=options.private or None).repo_url)
    except (HubError, ValueError, OSError) as error:
        private = " --private" if options.private else ""
        later = f"diffretouch push {options.out} {options.push_to_hub}{private}"
        return _say([f"{error} The data set is complete in {options.out}; to push it later: {later}"], 1)
    return 0


def _say(lines: Sequence[str], code: int) -> int:
    for line in lines:
        print(f"diffretouch: {' '.join(line.split())}", file=sys.stderr)
    return code
