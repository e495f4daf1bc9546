"""Training pairs in memory: every distinct picture decoded and encoded once, batches drawn by step number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from diffusers.models.modeling_utils import ModelMixin
from tqdm.auto import tqdm

from ..attributes import attribute_view
from ..data.dataset import decode
from ..pipeline_diffretouch import DiffRetouchPipeline


@dataclass
class Batch:
    """B training pairs. Photos are squashed to squares."""

    photo_latents: torch.Tensor  # (B, 3, h, w) in [-1, 1], what the UNet sees of the input
    latents: torch.Tensor  # (B, 4, h, w), z_0 of the target
    condition: torch.Tensor  # (B, 4) in [-1, 1]
    photo: torch.Tensor  # (B, 3, p, p) in [-1, 1]
    target: torch.Tensor  # (B, 3, p, p) in [-1, 1]


class PairCache:
    """All pairs of a split, ready for the UNet.

    Rows of one photo share their input and their targets, so pictures are keyed by their bytes and kept once.

    Args:
        rows: a split in the data set schema, pictures undecoded.
        pipe: gives the conditioning (`encode_photo`) and the latents (`vae`).
        pixel_size: side of the squashed pictures.
    """

    def __init__(self, rows: Dataset, pipe: DiffRetouchPipeline, pixel_size: int):
        self._pixel_size = pixel_size
        self._pipe = pipe
        size = pipe.unet.config.sample_size
        self._vae_side = size * vae_scale_factor(pipe.vae)
        self.inputs = _Store(self._encode_input)
        self.targets = _Store(self._encode_target)
        input_index, target_index, conditions = [], [], []
        groups: dict[str, set[int]] = {}
        for row in tqdm(rows, desc="Encoding pairs", leave=False):
            input_index.append(self.inputs.add(row["input"]["bytes"]))
            target_index.append(self.targets.add(row["target"]["bytes"]))
            conditions.append(row["condition"])
            groups.setdefault(row["photo_id"], set()).add(target_index[-1])
        self._pairs = torch.tensor([input_index, target_index])  # (2, N)
        self._conditions = torch.tensor(conditions)  # (N, 4)
        self._groups = {tuple(sorted(group)) for group in groups.values()}
        self.inputs.freeze()
        self.targets.freeze()

    def __len__(self) -> int:
        return self._pairs.shape[1]

    @torch.no_grad()
    def _encode_input(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._pipe.encode_photo(picture)[0], self._pixels(picture)

    @torch.no_grad()
    def _encode_target(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vae = self._pipe.vae
        view = attribute_view(picture[None], self._vae_side).to(vae.device, vae.dtype) * 2 - 1
        latents = vae.encode(view).latent_dist.mode() * vae.config.scaling_factor
        return latents[0].float().cpu(), self._pixels(picture)

    def _pixels(self, picture: torch.Tensor) -> torch.Tensor:
        squashed = attribute_view(picture[None], self._pixel_size)[0]
        return (squashed * 255).round().to(torch.uint8)

    def batch(self, indices: torch.Tensor, conditions: torch.Tensor, flip: torch.Tensor) -> Batch:
        """Pairs `indices` (B,) with their `conditions` (B, 4) as given, mirrored where `flip` (B,) says so."""
        inputs, targets = self._pairs[:, indices]
        photo_latents, photo = self.inputs.take(inputs)
        latents, target = self.targets.take(targets)
        pictures = [photo_latents, latents, photo.float() / 127.5 - 1, target.float() / 127.5 - 1]
        mirrored = [torch.where(flip.view(-1, 1, 1, 1), picture.flip(-1), picture) for picture in pictures]
        return Batch(mirrored[0], mirrored[1], conditions, mirrored[2], mirrored[3])

    def conditions(self, indices: torch.Tensor) -> torch.Tensor:
        """c of pairs `indices` (B,) -> (B, 4)."""
        return self._conditions[indices]

    def target_groups(self) -> list[torch.Tensor]:
        """Squashed targets of each distinct photo, (E, 3, p, p) in [0, 1]."""
        return [self.targets.take(torch.tensor(group))[1].float() / 255 for group in sorted(self._groups)]


def vae_scale_factor(vae: ModelMixin) -> int:
    """Pixels per latent, each way, of an `AutoencoderKL` or a `FixedLatentCodec`."""
    blocks = vae.config.get("block_out_channels")
    return 2 ** (len(blocks) - 1) if blocks else vae.config.patch_size


class _Store:
    """Distinct pictures by content, encoded to a pair of tensors each."""

    def __init__(self, encode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]):
        self._encode = encode
        self._places: dict[bytes, int] = {}
        self._entries: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._columns: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def add(self, encoded: bytes) -> int:
        if encoded not in self._places:
            self._places[encoded] = len(self._places)
            picture = np.asarray(decode({"bytes": encoded})).copy()
            self._entries.append(self._encode(torch.from_numpy(picture).permute(2, 0, 1).float() / 255))
        return self._places[encoded]

    def freeze(self) -> None:
        first, second = zip(*self._entries, strict=True)
        self._columns = (torch.stack(first), torch.stack(second))
        self._entries = []

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._columns is not None
        return self._columns[0][indices], self._columns[1][indices]
