"""`diffretouch init`: an untrained model from Stable Diffusion, to train."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import DTYPES, VARIANCES, count_between, one_line, torch_dtype


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_init)
    parser.add_argument("source", metavar="SD", help="folder or Hub id of a Stable Diffusion model")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--variance", choices=VARIANCES, default="fixed_small", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: fp32)")
    parser.add_argument("--seed", type=count_between("seed", 0, 2**32 - 1), default=0, help="of the new weights")


def _run_init(options: argparse.Namespace) -> int:
    from ..hub.stable_diffusion import pipeline_from_stable_diffusion
    from ..hub.upload import export

    def init() -> str:
        dtype = {} if options.dtype is None else {"dtype": torch_dtype(options.dtype)}
        pipe = pipeline_from_stable_diffusion(
            options.source, variance_type=options.variance, seed=options.seed, **dtype
        )
        return str(export(pipe, options.output))

    return one_line(init)
