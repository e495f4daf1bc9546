"""`diffretouch match REFERENCE PHOTO... -o OUT`: photos brought near to the tones and colours of an example."""

from __future__ import annotations

import argparse

from .arguments import add_model, add_strength
from .retouch import add_batch, add_looks, add_photos, add_writing, run_retouch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_retouch, look=None, variants=0, seed=0)
    parser.add_argument("match", metavar="REFERENCE", help="the example: a photo you like")
    add_photos(parser)
    add_strength(parser)
    add_model(parser)
    add_writing(parser)
    add_batch(parser)
    add_looks(parser)
