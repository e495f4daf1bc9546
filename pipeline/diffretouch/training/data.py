"""Training pairs in memory: every distinct picture decoded and encoded once, batches drawn by step number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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
        rows: a split in the data set schema, not empty, pictures undecoded.
        pipe: gives the conditioning (`encode_photo`) and the latents (`vae`).
        pixel_size: side of the squashed pictures.

    Raises:
        ValueError: if the pipeline has no `vae`.
    """

    def __init__(self, rows: Dataset, pipe: DiffRetouchPipeline, pixel_size: int):
        if pipe.vae is None:
            raise ValueError("`pretrained_model` has to have a vae to encode targets, got a pipeline without one.")
        self._pixel_size = pixel_size
        self._pipe = pipe
        self._vae_side = pipe.unet.config.sample_size * vae_scale_factor(pipe.vae)
        self._inputs = _Store((row["input"]["bytes"] for row in _watched(rows, "input")), self._encode_input)
        self._targets = _Store((row["target"]["bytes"] for row in _watched(rows, "target")), self._encode_target)
        self._conditions = torch.tensor(list(rows["condition"]))  # (N, 4)
        groups: dict[str, set[int]] = {}
        for photo_id, target in zip(rows["photo_id"], self._targets.places.tolist(), strict=True):
            groups.setdefault(photo_id, set()).add(target)
        self._groups = sorted({tuple(sorted(group)) for group in groups.values()})

    def __len__(self) -> int:
        return len(self._conditions)

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
        photo_latents, photo = self._inputs.of_rows(indices)
        latents, target = self._targets.of_rows(indices)
        pictures = [photo_latents, latents, photo.float() / 127.5 - 1, target.float() / 127.5 - 1]
        mirrored = [torch.where(flip.view(-1, 1, 1, 1), picture.flip(-1), picture) for picture in pictures]
        return Batch(mirrored[0], mirrored[1], conditions, mirrored[2], mirrored[3])

    def conditions(self, indices: torch.Tensor) -> torch.Tensor:
        """c of pairs `indices` (B,) -> (B, 4)."""
        return self._conditions[indices]

    def target_groups(self) -> list[torch.Tensor]:
        """Squashed targets of each distinct photo, (E, 3, p, p) in [0, 1]."""
        return [self._targets.encoded[1][list(group)].float() / 255 for group in self._groups]


def vae_scale_factor(vae: ModelMixin) -> int:
    """Pixels per latent, each way, of an `AutoencoderKL` or a `FixedLatentCodec`."""
    blocks = vae.config.get("block_out_channels")
    return 2 ** (len(blocks) - 1) if blocks else vae.config.patch_size


def _watched(rows: Dataset, column: str) -> tqdm:
    return tqdm(rows.select_columns([column]), desc=f"Encoding {column}s", leave=False)


class _Store:
    """The distinct pictures of a column, each encoded once to a pair of tensors.

    Args:
        column: encoded picture of every row.
        encode: picture (3, H, W) in [0, 1] -> two tensors, of equal shapes for all pictures.

    Attributes:
        places: (N,), where the picture of each row is.
        encoded: two tensors, the pictures' encodings stacked.
    """

    def __init__(self, column: Iterable[bytes], encode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]):
        known: dict[bytes, int] = {}
        pairs, places = [], []
        for data in column:
            digest = hashlib.sha256(data).digest()
            if digest not in known:
                known[digest] = len(known)
                picture = np.array(decode({"bytes": data}))
                pairs.append(encode(torch.from_numpy(picture).permute(2, 0, 1).float() / 255))
            places.append(known[digest])
        first, second = zip(*pairs, strict=True)
        self.places = torch.tensor(places)
        self.encoded = (torch.stack(first), torch.stack(second))

    def of_rows(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = self.places[indices]
        return self.encoded[0][places], self.encoded[1][places]
