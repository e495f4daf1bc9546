"""Where sampling goes through the noise levels, where its noise comes from, and which pictures start from the middle.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch


def are_middle(generator: torch.Generator | list[torch.Generator] | None, count: int, num_variants: int) -> list[bool]:
    """Which of `count` pictures get the middle of the styles: the user has asked for no style in particular."""
    if isinstance(generator, list):
        return [one.initial_seed() == 0 for one in generator]
    first = generator is None or generator.initial_seed() == 0
    return [first and number % num_variants == 0 for number in range(count)]


def one_generator_each(
    generator: torch.Generator | list[torch.Generator] | None, num_photos: int, num_variants: int
) -> torch.Generator | list[torch.Generator]:
    """The noise of every picture, photo-major: one generator for one picture, else a list.

    Without a `generator` it is one seeded with 0. Every photo gets the same styles: as its first variant the one that
    the generator gives a single photo, because it is drawn from alone; the seeds of the others come from a copy, which
    leaves the generator itself as it was. A list is taken as it is.

    Example:
        >>> [each.initial_seed() for each in one_generator_each(None, num_photos=2, num_variants=1)]
        [0, 0]
    """
    if isinstance(generator, list):
        return generator
    own = torch.Generator().manual_seed(0) if generator is None else generator
    copies = [_copy(own) for _ in range(num_photos - 1)]
    device = own.device
    seeds = torch.randint(1, 2**62, (num_variants - 1,), generator=_copy(own), device=device).tolist()
    each = []
    for first in (own, *copies):
        each += [first, *(torch.Generator(device).manual_seed(seed) for seed in seeds)]
    return own if len(each) == 1 else each


def _copy(generator: torch.Generator) -> torch.Generator:
    """Another generator of the same seed that is as far."""
    copy = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    copy.set_state(generator.get_state())
    return copy


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


def set_timesteps(
    scheduler: Any, steps: int, timesteps: Sequence[int] | None, first: int, device: torch.device
) -> torch.Tensor:
    """Prepare a scheduler for the truncated chain of `steps` down to `first`, or for explicit timesteps; returns those
    it will visit.

    Raises:
        ValueError: if a scheduler with a spacing of its own cannot.
    """
    most = scheduler.config.num_train_timesteps
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        chosen = truncated_timesteps(steps, first, most - 1) if timesteps is None else [int(t) for t in timesteps]
        scheduler.set_timesteps(timesteps=chosen, device=device)
        return scheduler.timesteps
    # The coarsest spacing of its own of which `steps` stay at or above `first`, stopped there.
    calls = (steps - 1) * scheduler.order + 1
    for spacing in range(steps, most + 1):
        scheduler.set_timesteps(spacing, device=device)
        visited = scheduler.timesteps[:calls]
        # Linear spacings are fractions: 199.8 is 200.
        if len(visited) == calls and round(float(visited[-1])) >= first:
            return visited
    kind = type(scheduler).__name__
    raise ValueError(f"`scheduler` has to visit {steps} training timesteps of at least {first}, {kind} does not.")


def step_arguments(scheduler: Any, generator: Any) -> dict[str, Any]:
    """What a step of the scheduler takes beside output, timestep and latents."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
