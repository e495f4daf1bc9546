"""The four attribute scores that steer a retouch, and the conditions made from them.

Scores are resolution-free by convention: measure them on the antialiased 512 x 512 view of a picture
(`attribute_view`), so that a photo and its thumbnail score alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

ATTRIBUTES = ("colorfulness", "brightness", "contrast", "temperature")
VIEW_SIZE = 512

# Added under square roots and logarithms: keeps gradients finite on grey and black pictures.
_EPSILON = 1e-12
_BLACK = 1e-3

# ln(R/B) of a black body's linear sRGB rises by this much per mired near daylight (4000-10000 K), so dividing by
# it turns the log ratio into a mired difference to the display's white, the unit of colour-correction filters.
_LOG_RATIO_PER_MIRED = 0.0098


def attribute_view(pictures: torch.Tensor, size: int = VIEW_SIZE) -> torch.Tensor:
    """Squash pictures (B, 3, H, W) to the antialiased `size` x `size` view on which scores are measured.

    Example:
        >>> attribute_view(torch.rand(1, 3, 300, 400)).shape
        torch.Size([1, 3, 512, 512])
    """
    if pictures.shape[-2:] == (size, size):
        return pictures
    return F.interpolate(pictures, (size, size), mode="bilinear", antialias=True, align_corners=False)


def colorfulness(pictures: torch.Tensor) -> torch.Tensor:
    """Colorfulness of (B, 3, H, W) pictures in [0, 1] -> (B,), 0 for grey.

    Hasler and Suesstrunk (2003): joint spread plus 0.3 times joint mean of the opponents |R - G| and
    |(R + G) / 2 - B| (the absolute opponents and the sample standard deviation are the method's choice).

    Example:
        >>> red_and_blue = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T.view(1, 3, 1, 2)
        >>> round(colorfulness(red_and_blue).item(), 3)
        1.061
    """
    red, green, blue = pictures.flatten(2).unbind(1)
    opponents = torch.stack([(red - green).abs(), ((red + green) / 2 - blue).abs()])  # (2, B, H*W)
    spread = (opponents.var(dim=2, correction=min(1, opponents.shape[2] - 1)).sum(0) + _EPSILON).sqrt()
    return spread + 0.3 * (opponents.mean(2).square().sum(0) + _EPSILON).sqrt()


def brightness(pictures: torch.Tensor) -> torch.Tensor:
    """Perceived brightness sqrt(0.241 R^2 + 0.691 G^2 + 0.068 B^2) of the channel means -> (B,) in [0, 1].

    Example:
        >>> round(brightness(torch.full((1, 3, 8, 8), 0.5)).item(), 3)
        0.5
    """
    weights = pictures.new_tensor([0.241, 0.691, 0.068])
    return ((pictures.mean((2, 3)).square() * weights).sum(1) + _EPSILON).sqrt()


def contrast(pictures: torch.Tensor) -> torch.Tensor:
    """Mean squared difference to the four neighbours, summed over the channels -> (B,), 0 for a flat picture.

    Example:
        >>> stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
        >>> round(contrast(stripes).item(), 3), contrast(torch.ones(1, 3, 8, 8)).item()
        (1.5, 0.0)
    """
    vertical = pictures.diff(dim=2).square()
    horizontal = pictures.diff(dim=3).square()
    pairs = max(1, vertical[0, 0].numel() + horizontal[0, 0].numel())
    return (vertical.sum((1, 2, 3)) + horizontal.sum((1, 2, 3))) / pairs


def temperature(pictures: torch.Tensor) -> torch.Tensor:
    """Warmth in mired relative to the display's white -> (B,): 0 for neutral, larger = warmer.

    From the mean linear-light RGB. On the black-body locus ln(R/B) is close to linear in mired (reciprocal
    correlated colour temperature), and unlike a fitted CCT it is smooth, monotone and defined for every colour.

    Example:
        >>> grey, warm = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0.6, 0.5, 0.4]).view(1, 3, 1, 1)
        >>> temperature(grey).item(), round(temperature(warm).item(), 1)
        (0.0, 88.8)
    """
    mean = srgb_to_linear(pictures).mean((2, 3)) + _BLACK
    return (mean[:, 0].log() - mean[:, 2].log()) / _LOG_RATIO_PER_MIRED


def srgb_to_linear(pictures: torch.Tensor) -> torch.Tensor:
    """IEC 61966-2-1 decoding of values in [0, 1]; differentiable everywhere."""
    curve = ((pictures.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(pictures <= 0.04045, pictures / 12.92, curve)


def attribute_scores(pictures: torch.Tensor) -> torch.Tensor:
    """The four scores of pictures (B, 3, H, W) in [0, 1] -> (B, 4) in the order of `ATTRIBUTES`.

    Batched and differentiable (paper, section on attribute control; the reference numbers of the first three are
    matched). Measured at the given resolution: pass `attribute_view(pictures)` to compare pictures of several sizes.

    Raises:
        ValueError: if `pictures` is not of shape (B, 3, H, W).

    Example:
        >>> import torch
        >>> from diffretouch import attribute_scores
        >>> orange = torch.tensor([1.0, 0.6, 0.2]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        >>> [round(score, 3) for score in attribute_scores(orange)[0].tolist()]
        [0.216, 0.702, 0.0, 344.828]
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape:
        raise ValueError(f"`pictures` has to be of shape (B, 3, H, W), got {tuple(pictures.shape)}.")
    return torch.stack([score(pictures) for score in (colorfulness, brightness, contrast, temperature)], dim=1)


def _check_scores(name: str, scores: torch.Tensor) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(ATTRIBUTES) or len(scores) == 0:
        raise ValueError(f"`{name}` has to be of shape (N, 4) with N >= 1, got {tuple(scores.shape)}.")
    if not torch.isfinite(scores).all():
        raise ValueError(f"`{name}` has to be finite, got {scores.tolist()}.")


def conditions_extreme(scores: torch.Tensor) -> torch.Tensor:
    """Per photo: scores (E, 4) of its E experts -> (E, 4) with +1 for the largest, -1 for the smallest, else 0.

    The paper's rule (c initialised to 0). Where all experts score alike, c stays 0.

    Example:
        >>> scores = torch.tensor([[0.1, 0.5, 0.2, 3.0], [0.2, 0.5, 0.1, 0.0], [0.4, 0.5, 0.3, 1.0]])
        >>> conditions_extreme(scores)
        tensor([[-1.,  0.,  0.,  1.],
                [ 0.,  0., -1., -1.],
                [ 1.,  0.,  1.,  0.]])
    """
    _check_scores("scores", scores)
    high, low = scores.amax(0), scores.amin(0)
    differs = high > low
    return ((scores == high) & differs).to(scores) - ((scores == low) & differs).to(scores)


def conditions_linear(scores: torch.Tensor) -> torch.Tensor:
    """Per photo: scores (E, 4) of its E experts -> (E, 4), min-max mapped to [-1, 1]; 0 where all score alike.

    Example:
        >>> conditions_linear(torch.tensor([[0.0, 0.5, 8.0, 1.0], [1.0, 0.5, 6.0, 1.0], [4.0, 0.5, 4.0, 1.0]]))
        tensor([[-1.0000,  0.0000,  1.0000,  0.0000],
                [-0.5000,  0.0000,  0.0000,  0.0000],
                [ 1.0000,  0.0000, -1.0000,  0.0000]])
    """
    _check_scores("scores", scores)
    high, low = scores.amax(0), scores.amin(0)
    span = (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
    return torch.where(high > low, 2 * (scores - low) / span - 1, torch.zeros_like(scores))


def conditions_quantile(changes: torch.Tensor) -> torch.Tensor:
    """Over a data set of own pairs: score changes after - before (N, 4) -> quantiles (N, 4) mapped to [-1, 1].

    For data with one expert, where no other expert gives a scale. Equal changes share their mean rank, so a
    constant attribute (or a single pair) gets 0.

    Example:
        >>> conditions_quantile(torch.tensor([[0.3, 0.0, 1.0, -2.0], [0.1, 0.0, 1.0, 5.0], [0.9, 0.0, 2.0, 7.0]]))
        tensor([[ 0.0000,  0.0000, -0.5000, -1.0000],
                [-1.0000,  0.0000, -0.5000,  0.0000],
                [ 1.0000,  0.0000,  1.0000,  1.0000]])
    """
    _check_scores("changes", changes)
    columns = changes.T.contiguous()  # (4, N)
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns)  # how many changes are smaller
    above = len(changes) - torch.searchsorted(ordered, columns, right=True)
    return (below - above).T.to(changes) / max(1, len(changes) - 1)
