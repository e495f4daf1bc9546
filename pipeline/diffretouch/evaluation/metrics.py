"""How pictures are compared: with a reference (PSNR, SSIM, CIEDE2000, LPIPS), without (BRISQUE, NIQE), by texture.

Pictures are sRGB, (H, W, 3) float32 in [0, 1], unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from .niqe import NIQE

# 8-bit pictures that differ anywhere stay below about this; a finite value for equal pictures keeps means finite.
PSNR_CEILING = 100.0

SSIM_WINDOW = 11  # side of the 1.5-sigma Gaussian window of Wang et al. (2004), the smallest picture SSIM can judge

# Detail is what a blur of this radius (sigma, pixels) takes away: edges and grain, not light and shade.
TEXTURE_SIGMA = 2.0

Compare = Callable[[np.ndarray, np.ndarray], float]  # picture, target
Judge = Callable[[np.ndarray], float]  # picture


def psnr(picture: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two sRGB pictures (H, W, 3) in [0, 1]; `PSNR_CEILING` when equal.

    Raises:
        ValueError: if a picture is not (H, W, 3) or the two differ in shape.

    Example:
        >>> black, grey = np.zeros((16, 16, 3), np.float32), np.full((16, 16, 3), 0.1, np.float32)
        >>> round(psnr(grey, black), 2), psnr(grey, grey)
        (20.0, 100.0)
    """
    _check_pair(picture, target)
    error = float(np.mean(np.square(picture.astype(np.float64) - target)))
    if error <= 10 ** (-PSNR_CEILING / 10):
        return PSNR_CEILING
    return -10 * float(np.log10(error))


def ssim(picture: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian window) of sRGB pictures (H, W, 3) in [0, 1], mean of R, G, B.

    Raises:
        ValueError: if a picture is not (H, W, 3), the two differ in shape, or a side is shorter than `SSIM_WINDOW`.

    Example:
        >>> noise = np.random.default_rng(0).random((16, 16, 3), np.float32)
        >>> round(ssim(noise, noise), 3), ssim(noise, 1 - noise) < 0
        (1.0, True)
    """
    _check_pair(picture, target)
    if min(picture.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"`picture` has to be at least {SSIM_WINDOW} x {SSIM_WINDOW} for SSIM, got {picture.shape}.")
    similarity = structural_similarity(
        picture, target, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(similarity)


def delta_e_2000(picture: np.ndarray, target: np.ndarray) -> float:
    """Mean CIEDE2000 colour difference over two sRGB pictures (H, W, 3) in [0, 1]; about 1 is just noticeable.

    CIE 142-2001 with unit weights, CIELAB under D65.

    Raises:
        ValueError: if a picture is not (H, W, 3) or the two differ in shape.

    Example:
        >>> black, white = np.zeros((1, 1, 3), np.float32), np.ones((1, 1, 3), np.float32)
        >>> round(delta_e_2000(black, white), 1), delta_e_2000(white, white)
        (100.0, 0.0)
    """
    _check_pair(picture, target)
    return float(np.mean(deltaE_ciede2000(rgb2lab(picture), rgb2lab(target)), dtype=np.float64))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"psnr": psnr, "ssim": ssim, "delta_e": delta_e_2000}


def _check_pair(picture: np.ndarray, target: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"`picture` has to be of shape (H, W, 3), got {picture.shape}.")
    if picture.shape != target.shape:
        raise ValueError(f"`target` has to be of the shape of `picture` {picture.shape}, got {target.shape}.")


def texture_agreement(picture: np.ndarray, source: np.ndarray) -> float:
    """Correlation of the fine detail of a retouch (H, W, 3) with its source's, in [-1, 1]; 1 = nothing was redrawn.

    Detail is luma minus its Gaussian blur (`TEXTURE_SIGMA`). A change of tone scales detail and costs little; a
    decoder that repaints it costs much. Without detail there is nothing to agree on: 1 if both lack it, else 0.

    Raises:
        ValueError: if a picture is not (H, W, 3) or the two differ in shape.

    Example:
        >>> noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
        >>> round(texture_agreement(0.5 * noise + 0.2, noise), 3), texture_agreement(0 * noise, noise)
        (1.0, 0.0)
    """
    _check_pair(picture, source)
    made, given = _detail(picture), _detail(source)
    scale = float(np.linalg.norm(made) * np.linalg.norm(given))
    if scale < 1e-9:
        return float(np.linalg.norm(made) < 1e-4 and np.linalg.norm(given) < 1e-4)
    return float(np.vdot(made, given) / scale)


def _detail(picture: np.ndarray) -> np.ndarray:
    luma = picture.astype(np.float64) @ np.asarray([0.2126, 0.7152, 0.0722])
    detail = luma - gaussian_filter(luma, TEXTURE_SIGMA)
    return detail - detail.mean()


# ---- metrics that live in other packages ----------------------------------------------------------------------------


def find_lpips() -> Compare:
    """LPIPS (Zhang et al. 2018) with AlexNet, by the `lpips` package, on weights that are on this machine already.

    Raises:
        ImportError: if `lpips` or torchvision is not installed.
        RuntimeError: if torchvision does not fit the installed torch.
        FileNotFoundError: if torchvision's AlexNet weights are not in torch's cache: they are never downloaded here.
    """
    import lpips
    from torchvision.models import AlexNet_Weights

    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if not weights.is_file():
        raise FileNotFoundError(f"{weights.name}, the AlexNet weights, is not in torch's cache")
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.no_grad()
    def measure(picture: np.ndarray, target: np.ndarray) -> float:
        pair = (torch.from_numpy(one.astype(np.float32)).permute(2, 0, 1)[None] * 2 - 1 for one in (picture, target))
        return float(network(*pair))

    return measure


def find_brisque() -> Judge:
    """BRISQUE (Mittal et al. 2012) by the `brisque` package; lower is better.

    Raises:
        ImportError: if it or OpenCV is not installed.
        TypeError, ValueError, AttributeError: if it does not work with the versions installed beside it.
    """
    from brisque import BRISQUE

    judge = BRISQUE(url=False)
    scale = judge.scale_features
    # brisque 0.2.0 mixes numbers with arrays of one number, which NumPy no longer takes for numbers.
    judge.scale_features = lambda features: scale([np.ravel(feature)[0] for feature in features])

    def measure(picture: np.ndarray) -> float:
        return float(judge.score(np.round(picture * 255).astype(np.uint8)))

    measure(np.random.default_rng(0).random((64, 64, 3)))
    return measure


def find_optional() -> tuple[dict[str, Compare], dict[str, Judge], dict[str, str]]:
    """Metrics that are at hand: with a reference, without one; and why the others are not, {name: reason}."""
    compare: dict[str, Compare] = {}
    judge: dict[str, Judge] = {}
    missing: dict[str, str] = {}
    try:
        judge["niqe"] = NIQE()
    except (ImportError, OSError) as error:
        missing["NIQE"] = str(error)
    try:
        compare["lpips"] = find_lpips()
    except (ImportError, OSError) as error:
        missing["LPIPS"] = str(error)
    except RuntimeError as error:  # a torchvision built for another torch
        missing["LPIPS"] = f"torchvision fails here ({error})"
    try:
        judge["brisque"] = find_brisque()
    except ImportError as error:
        missing["BRISQUE"] = str(error)
    except (TypeError, ValueError, AttributeError) as error:
        missing["BRISQUE"] = f"the package brisque fails here ({error})"
    return compare, judge, missing
