"""`diffretouch convert`: a checkpoint of the published layout to a model folder, or back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import DTYPES, VARIANCES, one_line, torch_dtype


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_convert)
    parser.add_argument("source", metavar="CKPT", help=".ckpt or .safetensors; with --reverse a folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a new or empty folder")
    parser.add_argument("--reverse", action="store_true", help="a model to a checkpoint; OUT is the file")
    parser.add_argument(
        "--variance", choices=VARIANCES, help="fixed_large for PPR10K (default: as recorded, or small)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as stored)")
    parser.add_argument("--variants", nargs="+", choices=("fp16", "bf16"), default=[], help="further copies")
    parser.add_argument("--without-vae", action="store_true", help="leave out what only training needs")
    parser.add_argument("--shard", default="1GB", metavar="SIZE", help="most bytes per file (default: %(default)s)")


def _run_convert(options: argparse.Namespace) -> int:
    from ..hub.card import write_model_card
    from ..hub.convert import convert_checkpoint_to_folder, revert_to_original
    from ..hub.folders import read_index

    def convert() -> str:
        shared: dict[str, Any] = {"dtype": torch_dtype(options.dtype), "with_vae": not options.without_vae}
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

    return one_line(convert)
