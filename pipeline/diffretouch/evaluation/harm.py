"""What a retouch does to photos that need none, and how often it takes a photo farther from every expert.

Clipping, of 8-bit pictures as files hold them:

- a pixel is clipped where any channel is at least `WHITE` or at most `BLACK`: its colour is no longer the scene's;
- it is white where all channels are at least `WHITE`: nothing is left of the scene.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from .baselines import Baseline
from .intervals import Figure, mean_figure, ratio_figure, resamples
from .methods import TEACHER, Progress, quantised, unit
from .metrics import delta_e_2000

WHITE, BLACK = 254, 1

# A second and a third pass, and a grey version, of methods that take minutes for a photo say too little for the time.
SLOW = (TEACHER,)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, as the grid's own black-and-white


def clipped_share(picture: np.ndarray) -> float:
    """Share of the clipped pixels of a picture (H, W, 3) uint8, in [0, 1]."""
    return float(((picture >= WHITE) | (picture <= BLACK)).any(2).mean())


def white_share(picture: np.ndarray) -> float:
    """Share of the white pixels of a picture (H, W, 3) uint8, in [0, 1]."""
    return float((picture >= WHITE).all(2).mean())


def colour_cast(picture: np.ndarray) -> int:
    """The largest difference between two channels of a pixel of a picture (H, W, 3) uint8: 0 = exactly neutral."""
    return int(np.ptp(picture, axis=2).max())


def black_and_white(picture: np.ndarray) -> np.ndarray:
    """The luma of a picture (H, W, 3) uint8 in all three channels."""
    luma = np.round(picture @ _LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def harm_of(picture: np.ndarray, retouch: Baseline, again: bool = True) -> dict[str, float]:
    """What a retouch does to a finished photo (H, W, 3) uint8; answers are rounded to 8 bits, as they are saved.

    Returns:
        `moved`, Delta E 2000 to the photo; `clipped` and `white`, percent of the pixels afterwards, and
        `clipped_gained` and `white_gained`, percentage points more than in the photo. With `again`: `second` and
        `third`, Delta E 2000 that retouching the answer once and twice more moves it; `cast`, `colour_cast` of the
        answer to the photo in black-and-white, in 8-bit levels.
    """
    answer = _answer(picture, retouch)
    figures = {
        "moved": delta_e_2000(unit(answer), unit(picture)),
        "clipped": 100 * clipped_share(answer),
        "clipped_gained": 100 * (clipped_share(answer) - clipped_share(picture)),
        "white": 100 * white_share(answer),
        "white_gained": 100 * (white_share(answer) - white_share(picture)),
    }
    if again:
        second = _answer(answer, retouch)
        third = _answer(second, retouch)
        figures["second"] = delta_e_2000(unit(second), unit(answer))
        figures["third"] = delta_e_2000(unit(third), unit(second))
        figures["cast"] = colour_cast(_answer(black_and_white(picture), retouch))
    return figures


def _answer(picture: np.ndarray, retouch: Baseline) -> np.ndarray:
    return quantised(retouch(unit(picture)))


def measure_harm(
    methods: Mapping[str, Baseline],
    finished: Mapping[str, np.ndarray],
    seed: int,
    slow: Collection[str] = SLOW,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What every method does to finished photos.

    Args:
        methods: one answer to a picture each.
        finished: photos (H, W, 3) uint8 by their names.
        seed: of the bootstrap.
        slow: methods that are asked for one answer to each photo only.

    Returns:
        - `photos`: how many
        - `methods[name]`: `moved`, `clipped`, `clipped_gained`, `white`, `white_gained` as `harm_of`; unless it is
          slow, `second` (what a second pass moves, in units of the first), `third` (in units of the second; either
          None where nothing moves) and `cast`, the largest of all photos
        - `records[name]`: what `harm_of` says of each photo
    """
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for number, (photo, picture) in enumerate(finished.items(), 1):
        for name, retouch in methods.items():
            records[name].append({"photo": photo, **harm_of(picture, retouch, name not in slow)})
        if progress is not None:
            progress(number, len(finished))
    samples = resamples(len(finished), seed)
    return {
        "photos": len(finished),
        "methods": {name: _summary(each, samples) for name, each in records.items()},
        "records": records,
    }


def _summary(records: Sequence[Mapping[str, Any]], samples: np.ndarray) -> dict[str, Any]:
    def each(figure: str) -> list[float]:
        return [record[figure] for record in records]

    plain = ("moved", "clipped", "clipped_gained", "white", "white_gained")
    summary: dict[str, Any] = {figure: mean_figure(each(figure), samples) for figure in plain}
    if "second" in records[0]:
        summary["second"] = ratio_figure(each("second"), each("moved"), samples)
        summary["third"] = ratio_figure(each("third"), each("second"), samples)
        summary["cast"] = max(each("cast"))
    return summary


def farther_from_every_expert(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Figure]:
    """{method: share of a split's photos that it takes farther from every expert than they came, in [0, 1]}.

    Args:
        records: of `evaluate` (`result["photos"]`): Delta E 2000 by method and expert.
        seed: of the bootstrap.
    """
    samples = resamples(len(records), seed)
    methods = [name for name in records[0]["quality"] if name != "oracle c"]
    return {
        name: mean_figure([_is_farther(record["quality"], name) for record in records], samples) for name in methods
    }


def _is_farther(quality: Mapping[str, Any], method: str) -> float:
    before = quality["no change"]
    return float(all(after["delta_e"] > before[expert]["delta_e"] for expert, after in quality[method].items()))
