"""Where sampling goes through the noise levels, and which pictures start from the middle of the styles.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import torch


def are_middle(generator: torch.Generator | list[torch.Generator] | None, count: int, num_variants: int) -> list[bool]:
    """Which of `count` pictures get the middle of the styles: the user has asked for no style in particular."""
    if isinstance(generator, list):
        return [one.initial_seed() == 0 for one in generator]
    first = generator is None or generator.initial_seed() == 0
    return [first and number % num_variants == 0 for number in range(count)]


def truncated_timesteps(num_inference_steps: int, first: int = 200, last: int = 999) -> list[int]:
    """The method's sampling timesteps, descending: `num_inference_steps` from `last` down to `first`.

    The chain never goes below `first`: the picture comes from the features of the last UNet call, and at low noise
    they carry no more style. One step means `first` alone. (Sampling section of the paper; published code.)

    Example:
        >>> truncated_timesteps(5)
        [999, 799, 600, 400, 200]
    """
    if num_inference_steps == 1:
        return [first]
    stride = (last - first) / (num_inference_steps - 1)
    timesteps, position = [], 0.0
    for _ in range(num_inference_steps):
        # The running float sum is the published rounding; a multiplication differs by one now and then.
        timesteps.append(first + round(position))
        position += stride
    return timesteps[::-1]
