"""What `sweep` and `variants` share: one picture of a photo in many retouches."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..batch.plan import UsageError, check_photo_name
from ..batch.retouch import load_pipeline
from ..batch.settings import Settings
from .arguments import add_model, add_seed, count_between, start_quickly


def add_sheet(sheet: argparse.ArgumentParser) -> None:
    sheet.add_argument("photo", type=Path, metavar="IN")
    sheet.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a picture file")
    sheet.add_argument("--width", type=count_between("width", 64, 2000), default=400, help="of each cell, in pixels")
    sheet.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_seed(sheet)
    add_model(sheet)


def write_sheet(options: argparse.Namespace, draw: Callable[[Any, Any], Any]) -> int:
    """Write what `draw` makes of the retouch and the photo; the sheet is in the photo's colour space."""
    check_photo_name("output", options.output)
    if os.path.lexists(options.output) and not options.overwrite:
        raise UsageError(f"{options.output} exists; choose another output or pass --overwrite")
    from ..photo import Photo, PhotoError, open_photo, save_photo

    given = {name: getattr(options, name) for name in ("model", "lora_scale", "steps", "fast")}
    settings = Settings(**given, lora=tuple(options.lora))
    try:
        photo = open_photo(options.photo)
        start_quickly(options, "model.pipeline_diffretouch")
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
