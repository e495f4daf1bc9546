# /// script
# requires-python = ">=3.11"
# dependencies = ["diffretouch[train]"]
#
# [tool.uv.sources]  # not on PyPI yet: the checkout that this file lies in; without one, see README.md beside it
# diffretouch = { path = "..", editable = true }
# ///
"""Scale and untangle a trained model's sliders by what they do to validation photos.

python train_lora/calibrate_sliders.py pipeline/diffretouch/bundled data-synthetic -o runs/bundled-calibrated

Training leaves a slider short of the experts' range where its attribute is hard to move, and lets it drag others
along. The UNet sees c as one cross-attention token, so attention has nothing to choose from and all that c does there
enters as to_v(c), linear in c, as it does into the first layer of the class embedding. A matrix in front of c
therefore folds into these exactly: no new weights, no new step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffretouch import ATTRIBUTES, DiffRetouchPipeline
from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.evaluation.measure import evenly_spaced
from diffretouch.evaluation.one_photo import predict_grids, view_scores
from diffretouch.model.photo_statistics_diffretouch import NUM_STATISTICS

# Beyond the experts' own range, so that unseen photos reach it too. How far contrast gets depends most on the photo:
# at 1.1 packages never seen came to 0.9, at 1.3 they reach 1 for 0.6% of the input's Delta E more with oracle c.
RANGE = {"colorfulness": 1.1, "brightness": 1.1, "contrast": 1.3, "temperature": 1.1}


def _photos(rows: Any, num_photos: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Evenly spaced photos (H, W, 3) in [0, 1], as large as they are, with the range (4,) of their experts' scores."""
    for found in evenly_spaced(list(photos_of(rows)), num_photos):
        photo, *targets = [
            np.asarray(picture, np.float32) / 255
            for picture in (decode(found[0]["input"]), *(decode(row["target"]) for row in found))
        ]
        yield photo, np.ptp(view_scores(targets), axis=0)


def measure_response(pipe: DiffRetouchPipeline, photos: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """What every slider's way from -1 to +1 does to every attribute: (4 sliders, 4 attributes), 1 = experts' range."""
    ends = [[end if slider == moved else 0.0 for slider in range(4)] for moved in range(4) for end in (-1.0, 1.0)]
    changes, spans = [], []
    for photo, span in photos:
        grids = predict_grids(pipe, np.round(photo * 255).astype(np.uint8), ends, [0] * 8, num_inference_steps=None)
        scores = np.reshape(view_scores(grid.apply(photo) for grid in grids), (4, 2, 4))
        changes.append(scores[:, 1] - scores[:, 0])
        spans.append(span)
    return np.mean(changes, axis=0) / np.mean(spans, axis=0)


@torch.no_grad()
def fold(pipe: DiffRetouchPipeline, matrix: np.ndarray) -> None:
    """Let the model see c @ matrix where it is given c (B, 4); `matrix` (4, 4). In place.

    Raises:
        ValueError: if the UNet has no cross-attention to fold it into.
    """
    values = [weight for name, weight in pipe.unet.named_parameters() if name.endswith("attn2.to_v.weight")]
    if not values:
        raise ValueError("`pipe.unet` has to have cross-attention, whose attn2.to_v reads c, got none.")
    if pipe.unet.class_embedding is not None:
        values.append(pipe.unet.class_embedding.linear_1.weight[:, NUM_STATISTICS:])
    for weight in values:
        weight.copy_(weight @ torch.from_numpy(matrix.T).to(weight))


def calibrate(pipe: DiffRetouchPipeline, rows: Any, *, num_photos: int = 40, rounds: int = 3) -> np.ndarray:
    """Make every slider cover the experts' range of its attribute, and only of its own; in place.

    Args:
        pipe: the model.
        rows: a split of a data set in the project's schema, not the one that it is tested on.
        num_photos: that are measured, evenly spaced over the split.
        rounds: corrections, each measured anew, since pictures answer a slider only about linearly.

    Returns:
        The response (4, 4) that is left, as of `measure_response`.
    """
    photos = list(_photos(rows, num_photos))
    wanted = np.diag([RANGE[name] for name in ATTRIBUTES])
    for _ in range(rounds):
        fold(pipe, wanted @ np.linalg.inv(measure_response(pipe, photos)))
    return measure_response(pipe, photos)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="pipeline folder or Hub id")
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema; its validation split is used")
    parser.add_argument("--num_photos", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the calibrated pipeline")
    options = parser.parse_args(arguments)
    try:
        rows = read_split(options.dataset, "validation")
        pipe = DiffRetouchPipeline.from_pretrained(options.model)
        pipe.set_progress_bar_config(disable=True)
        response = calibrate(pipe, rows, num_photos=options.num_photos)
        pipe.save_pretrained(options.output)
    except (OSError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        print(f"calibrate_sliders.py: {error}", file=sys.stderr)
        return 2
    print(f"Response of {', '.join(ATTRIBUTES)} (rows: sliders), 1 = the experts' range:\n{response.round(2)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
