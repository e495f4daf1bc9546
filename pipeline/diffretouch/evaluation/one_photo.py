"""What is measured of one photo: its retouches, beside those of baselines and other models."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..attributes import ATTRIBUTES, attribute_scores, attribute_view
from ..model.modeling_affine_grid import AffineGrid
from ..report import Sheet
from .baselines import Baseline
from .metrics import Compare, Judge, delta_e_2000, texture_agreement
from .photos import EvaluatedPhoto

# Slider positions of the control curves; 0 is shared by all four sliders.
POSITIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
DEFAULT_SEED = 0  # what is not a variant is retouched as users get it who ask for no style: with this seed
NUM_VARIANTS = 8  # seeds of the coverage measure
NUM_DIVERSITY_SEEDS = 4  # the first of these variants, compared with each other
SPEED_REPEATS = 3
SPEED_SIDE = 600  # pixels of the picture that a grid is applied to for the time of it
SHOWN_SIDE = 384  # pixels of their long side

# (picture, conditions, seeds) -> one retouched picture per condition
_Retouch = Callable[[np.ndarray, list[list[float]], list[int]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Instruments:
    """All that a photo is measured with.

    Args:
        decode: the ablation: (picture, seed) -> the VAE's own picture.
        beside: other models.
    """

    retouch: _Retouch
    decode: Callable[[np.ndarray, int], np.ndarray] | None
    beside: Mapping[str, _Retouch]
    baselines: Mapping[str, Baseline]
    compare: Mapping[str, Compare]
    judge: Mapping[str, Judge]
    seed: int


def measure_photo(tools: Instruments, photo: EvaluatedPhoto) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All measurements of one photo as plain numbers, and the pictures worth showing.

    Draws the variants' noise from the seed and the photo's name alone.
    """
    seeds = [DEFAULT_SEED, *variant_seeds(tools.seed, photo.photo_id)]
    neutral = [[0.0] * len(ATTRIBUTES)] * len(seeds)
    at_zero, *variants = tools.retouch(photo.picture, neutral, seeds)
    beside = {name: list(retouch(photo.picture, neutral, seeds)) for name, retouch in tools.beside.items()}
    oracle = tools.retouch(photo.picture, list(photo.conditions.values()), [DEFAULT_SEED] * len(photo.conditions))
    oracles = dict(zip(photo.targets, oracle, strict=True))
    made = {name: baseline(photo.picture) for name, baseline in tools.baselines.items()}
    made |= {name: first for name, (first, *_) in beside.items()} | {"c = 0": at_zero}
    quality = {
        method: {expert: _compare(tools, picture, target) for expert, target in photo.targets.items()}
        for method, picture in made.items()
    }
    quality["oracle c"] = {
        expert: _compare(tools, oracles[expert], target) for expert, target in photo.targets.items()
    }
    natural = {
        method: {name: _judge(judge, picture) for name, judge in tools.judge.items()}
        for method, picture in made.items()
    }
    height, width = photo.picture.shape[:2]
    control, ends = _control_scores(tools.retouch, photo.picture, at_zero)
    redrawn = {"c = 0": at_zero}
    if tools.decode is not None:
        redrawn["decoded"] = tools.decode(photo.picture, DEFAULT_SEED)
    record = {
        "photo_id": photo.photo_id,
        "width": width,
        "height": height,
        "quality": quality,
        "natural": natural,
        **variety(variants, photo.targets),
        "beside": {name: variety(pictures, photo.targets) for name, (_, *pictures) in beside.items()},
        "control": control,
        "texture": {name: texture_agreement(picture, photo.picture) for name, picture in redrawn.items()},
        "input_scores": view_scores([photo.picture])[0],
        "expert_scores": dict(zip(photo.targets, view_scores(photo.targets.values()), strict=True)),
    }
    pictures = {
        **made,
        "input": photo.picture,
        **{f"target {expert}": target for expert, target in photo.targets.items()},
        **{f"oracle {expert}": picture for expert, picture in oracles.items()},
        **{f"seed {number}": picture for number, picture in enumerate(variants[:NUM_DIVERSITY_SEEDS], 1)},
        **ends,
        **redrawn,
    }
    return record, pictures


def variety(variants: list[np.ndarray], targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How far a model's variants of a photo are from each other, and each of them from every expert."""
    pairs = [(a, b) for b in range(NUM_DIVERSITY_SEEDS) for a in range(b)]
    return {
        "diversity": float(np.mean([delta_e_2000(variants[a], variants[b]) for a, b in pairs])),
        "variants": {
            expert: [delta_e_2000(variant, target) for variant in variants] for expert, target in targets.items()
        },
    }


def _compare(tools: Instruments, picture: np.ndarray, target: np.ndarray) -> dict[str, float]:
    return {name: metric(picture, target) for name, metric in tools.compare.items()}


def _control_scores(
    retouch: _Retouch, picture: np.ndarray, at_zero: np.ndarray
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """{slider: (positions, attributes) scores} of one photo, one slider moved at a time, the noise held fixed; and the
    pictures at both ends of each slider."""
    moved = [position for position in POSITIONS if position != 0]
    conditions = [
        [position if name == slider else 0.0 for name in ATTRIBUTES] for slider in ATTRIBUTES for position in moved
    ]
    ends: dict[str, np.ndarray] = {}

    def remembered() -> Iterator[np.ndarray]:
        made = retouch(picture, conditions, [DEFAULT_SEED] * len(conditions))
        for number, one in enumerate(made):
            slider, position = ATTRIBUTES[number // len(moved)], moved[number % len(moved)]
            if abs(position) == 1:
                ends[f"{slider} {position:+.0f}"] = one
            yield one

    scores = view_scores(remembered())
    zero = view_scores([at_zero])
    below = sum(position < 0 for position in POSITIONS)
    curves = {}
    for number, slider in enumerate(ATTRIBUTES):
        own = scores[number * len(moved) : (number + 1) * len(moved)]
        curves[slider] = own[:below] + zero + own[below:]
    return curves, ends


def view_scores(pictures: Iterable[np.ndarray]) -> list[list[float]]:
    """Attribute scores (N, 4) of pictures (H, W, 3) on their 512 x 512 views, one at a time to bound memory."""
    views = (attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in pictures)
    return [attribute_scores(view)[0].tolist() for view in views]


def variant_seeds(seed: int, photo_id: str) -> list[int]:
    """`NUM_VARIANTS` seeds, others for every photo, the same whichever photos are measured beside it."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(photo_id.encode())])
    return [int(number) for number in sequence.generate_state(NUM_VARIANTS)]


def predict_grids(
    pipe: Any,
    photo: np.ndarray,
    conditions: list[list[float]],
    seeds: list[int],
    *,
    num_inference_steps: int | None,
    batch_size: int = 16,
) -> Iterator[AffineGrid]:
    """One grid per condition and seed for a photo (H, W, 3) uint8, `batch_size` of them in a call."""
    for start in range(0, len(conditions), batch_size):
        batch = conditions[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch_size]]
        sliders = {name: [condition[number] for condition in batch] for number, name in enumerate(ATTRIBUTES)}
        output = pipe(
            [photo] * len(batch),
            **sliders,
            num_inference_steps=num_inference_steps,
            generator=generators,
            output_type="grid",
        )
        yield from output.grids


def make_retouch(pipe: Any, num_inference_steps: int | None, batch_size: int) -> _Retouch:
    """The pipeline as a function that yields its pictures one by one, unrounded."""

    def retouch(picture: np.ndarray, conditions: list[list[float]], seeds: list[int]) -> Iterator[np.ndarray]:
        photo = np.round(picture * 255).astype(np.uint8)
        grids = predict_grids(
            pipe, photo, conditions, seeds, num_inference_steps=num_inference_steps, batch_size=batch_size
        )
        yield from (grid.apply(picture) for grid in grids)

    return retouch


def make_decode(pipe: Any, num_inference_steps: int | None) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """The paper's ablation, z_0 decoded instead of a grid applied; None for a pipeline without a VAE."""
    if getattr(pipe, "vae", None) is None:
        return None

    def decode(picture: np.ndarray, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        photo = np.round(picture * 255).astype(np.uint8)
        made = pipe(
            photo, num_inference_steps=num_inference_steps, generator=generator, output_type="np", base="decoded"
        )
        return made.images[0]

    return decode


def text_pictures() -> dict[str, np.ndarray]:
    """Pictures of writing, (H, W, 3) float32 in [0, 1], the same everywhere: the hardest texture to keep."""
    styles = {
        "ink on paper": ((250, 248, 240), (25, 25, 30)),
        "light on dark": ((20, 24, 40), (235, 235, 220)),
        "faint on colour": ((120, 150, 170), (165, 175, 150)),
    }
    words = "Expert-quality retouching keeps\nevery letter: {}()[] 0123456789\nThe quick brown fox jumps over\n"
    drawn = {}
    for name, (ground, ink) in styles.items():
        canvas = Image.new("RGB", (384, 256), ground)
        pen = ImageDraw.Draw(canvas)
        for size, top in ((22, 8), (15, 110), (10, 185)):
            pen.multiline_text((10, top), words, fill=ink, font=ImageFont.load_default(size))
        drawn[name] = np.asarray(canvas, dtype=np.float32) / 255
    return drawn


def measure_text(tools: Instruments) -> tuple[dict[str, dict[str, float]], Sheet]:
    """{text picture: {method: texture agreement}} at c = 0, and the pictures."""
    measured, pictures = {}, {}
    for name, picture in text_pictures().items():
        made = {"c = 0": next(tools.retouch(picture, [[0.0] * len(ATTRIBUTES)], [DEFAULT_SEED]))}
        if tools.decode is not None:
            made["decoded"] = tools.decode(picture, DEFAULT_SEED)
        measured[name] = {method: texture_agreement(one, picture) for method, one in made.items()}
        pictures[name] = {"input": reduced(picture), **{method: reduced(one) for method, one in made.items()}}
    return measured, pictures


def measure_speed(pipe: Any, photo: EvaluatedPhoto, num_inference_steps: int | None) -> dict[str, float]:
    """Median seconds of one grid and of applying it, per megapixel, on this machine as busy as it is."""
    view = np.round(photo.picture * 255).astype(np.uint8)
    repeats = (math.ceil(SPEED_SIDE / view.shape[0]), math.ceil(SPEED_SIDE / view.shape[1]), 1)
    large = np.tile(view, repeats)[:SPEED_SIDE, :SPEED_SIDE]
    grid_seconds, apply_seconds = [], []
    for _ in range(SPEED_REPEATS):
        started = time.perf_counter()
        (grid,) = predict_grids(
            pipe, view, [[0.0] * len(ATTRIBUTES)], [DEFAULT_SEED], num_inference_steps=num_inference_steps
        )
        between = time.perf_counter()
        grid.apply(large)
        grid_seconds.append(between - started)
        apply_seconds.append(time.perf_counter() - between)
    return {
        "grid_seconds": float(np.median(grid_seconds)),
        "apply_seconds_per_megapixel": float(np.median(apply_seconds)) / (SPEED_SIDE**2 / 1e6),
    }


def reduced(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _judge(judge: Judge, picture: np.ndarray) -> float | None:
    """What `judge` says; None, of which JSON knows, where it can say nothing of such a picture."""
    judged = judge(picture)
    return judged if np.isfinite(judged) else None
