"""Training pairs on disk: every distinct picture decoded and encoded once, ever; batches drawn by step number."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from ..attributes import attribute_scores, attribute_view, conditions_quantile
from ..data.dataset import decode, good_rows
from ..files import write_atomically
from ..model.photo_statistics_diffretouch import photo_statistics, statistics_view
from ..model.pipeline_diffretouch import DiffRetouchPipeline


@dataclass
class Batch:
    """B training pairs. Photos are squashed to squares."""

    photo_latents: torch.Tensor  # (B, 3, h, w) in [-1, 1], what the UNet sees of the input
    latents: torch.Tensor  # (B, 4, h, w), z_0 of the target
    condition: torch.Tensor  # (B, 4) in [-1, 1]
    photo: torch.Tensor  # (B, 3, p, p) in [-1, 1]
    statistics: torch.Tensor  # (B, 138) of `photo`
    target: torch.Tensor  # (B, 3, p, p) in [-1, 1]


class PairCache:
    """All pairs of a split, ready for the UNet.

    Rows of one photo share their input and their targets, so pictures are keyed by their bytes and kept once, in files
    that the next run over the same pictures finds again. What is in memory is a table of file names.

    Args:
        rows: a split in the data set schema, pictures undecoded; read once, so it may be a stream.
        pipe: gives the conditioning (`encode_photo`) and the latents (`vae`).
        pixel_size: side of the squashed pictures.
        folder: of the encoded pictures; made if missing. Several processes and runs may share it.
        bad_rows: "stop" or "skip", see `good_rows`.
        device: where the `vae` works; it stays on the CPU otherwise.

    Attributes:
        one_expert: whether every photo has a single target. Where such a data set's conditions are all 0 besides, c
            falls back to the quantile of each score's change over the data set.
        photo_ids: of the rows.
        group_of: (N,), the place in `target_groups` of each row's photo.
        fingerprint: of pictures and conditions, hexadecimal; equal data sets have equal ones.
        latent_shape: (4, h, w).

    Raises:
        ValueError: if the pipeline has no `vae`, or a row is bad.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        rows: Iterable[dict[str, Any]],
        pipe: DiffRetouchPipeline,
        pixel_size: int,
        folder: Path,
        bad_rows: str = "stop",
        device: torch.device | str = "cpu",
    ):
        if pipe.vae is None:
            raise ValueError("`pretrained_model` has to have a vae to encode targets, got a pipeline without one.")
        self._encoder = encoder = _Encoder(pipe, pixel_size, device)
        self._inputs = _Store(folder, encoder.encode_input, encoder.input_version())
        self._targets = _Store(folder, encoder.encode_target, encoder.target_version())
        self.photo_ids: list[str] = []
        conditions = []
        folder.mkdir(parents=True, exist_ok=True)
        # Processes take turns: the first encodes, the others find the files. A killed process lets go of the lock.
        with FileLock(folder / "lock"):
            for leftover in folder.glob(".*.part"):
                leftover.unlink()
            for row in tqdm(good_rows(rows, bad_rows), desc="Encoding pairs", leave=False):
                self._inputs.add(row["input"]["bytes"])
                self._targets.add(row["target"]["bytes"])
                self.photo_ids.append(row["photo_id"])
                conditions.append(row["condition"])
        pipe.vae.to("cpu")
        self.latent_shape = self._targets.read(0)[0].shape
        groups: dict[str, dict[str, int]] = {}
        for index, (photo_id, name) in enumerate(zip(self.photo_ids, self._targets.names, strict=True)):
            groups.setdefault(photo_id, {}).setdefault(name, index)
        # Inputs of one photo, which have ids of their own, share its targets.
        distinct = {frozenset(group): sorted(group.values()) for group in groups.values()}
        self._groups = list(distinct.values())
        numbers = {names: number for number, names in enumerate(distinct)}
        self.group_of = torch.tensor([numbers[frozenset(groups[photo_id])] for photo_id in self.photo_ids])
        self.one_expert = all(len(group) == 1 for group in self._groups)
        self._conditions = torch.tensor(conditions)  # (N, 4)
        if self.one_expert and not self._conditions.any():
            self._conditions = conditions_quantile(self.score_changes())
        facts = json.dumps([self._inputs.names, self._targets.names, self._conditions.tolist()])
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._conditions)

    def leave_out(self, photo_ids: Collection[str]) -> None:
        """Forget the pairs of these photos, of a set with one expert; fingerprint and c stay those of all pairs."""
        kept = [number for number, name in enumerate(self.photo_ids) if name not in photo_ids]
        for store in (self._inputs, self._targets):
            store.names = [store.names[number] for number in kept]
        self.photo_ids = [self.photo_ids[number] for number in kept]
        self._conditions = self._conditions[kept]
        self._groups = [[number] for number in range(len(kept))]
        self.group_of = torch.arange(len(kept))

    def batch(self, indices: torch.Tensor, conditions: torch.Tensor, flip: torch.Tensor) -> Batch:
        """Pairs `indices` (B,) with their `conditions` (B, 4) as given, mirrored where `flip` (B,) says so."""
        photo_latents, photo, statistics = self._inputs.of_rows(indices)
        latents, target = self._targets.of_rows(indices)
        pictures = [photo_latents, latents, unquantised(photo), unquantised(target)]
        mirrored = [torch.where(flip.view(-1, 1, 1, 1), picture.flip(-1), picture) for picture in pictures]
        return Batch(mirrored[0], mirrored[1], conditions, mirrored[2], statistics, mirrored[3])

    def as_inputs(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`pictures` (B, 3, p, p) in [-1, 1] as photos: the photo latents, photo and statistics of a `Batch`."""
        seen = [self._encoder.encode_input(picture) for picture in ((pictures + 1) / 2).clamp(0, 1).cpu()]
        photo_latents, pixels, statistics = (torch.stack(one) for one in zip(*seen, strict=True))
        return photo_latents, unquantised(pixels), statistics

    def conditions(self, indices: torch.Tensor) -> torch.Tensor:
        """c of pairs `indices` (B,) -> (B, 4)."""
        return self._conditions[indices]

    def target_groups(self) -> Iterable[torch.Tensor]:
        """Squashed targets of every distinct photo, in [0, 1]."""
        for group in self._groups:
            yield self._targets.of_rows(torch.tensor(group))[1].float() / 255  # (E, 3, p, p)

    @torch.no_grad()
    def score_changes(self) -> torch.Tensor:
        """What the retouch did to the scores of every pair's squashed pictures, (N, 4)."""
        changes = []
        for index in range(len(self.photo_ids)):
            before, after = (store.read(index)[1][None].float() / 255 for store in (self._inputs, self._targets))
            changes.append(attribute_scores(after) - attribute_scores(before))
        return torch.cat(changes)


class _Encoder:
    """What the model sees of one picture (3, H, W) in [0, 1], and what defines it."""

    def __init__(self, pipe: DiffRetouchPipeline, pixel_size: int, device: torch.device | str):
        self._pipe = pipe
        self._vae = pipe.vae.to(device)
        self._pixel_size = pixel_size
        self._vae_side = pipe.unet.config.sample_size * vae_scale_factor(pipe.vae)

    @torch.no_grad()
    def encode_input(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """-> the conditioning (3, h, w) in [-1, 1], the squashed picture (3, p, p) uint8, its statistics (138,)."""
        pixels = self._pixels(picture)
        statistics = photo_statistics(statistics_view(unquantised(pixels[None])))[0]
        return self._pipe.encode_photo(picture)[0], pixels, statistics

    @torch.no_grad()
    def encode_target(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """-> z_0 (4, h, w), the squashed picture (3, p, p) uint8."""
        view = attribute_view(picture[None], self._vae_side).to(self._vae.device, self._vae.dtype) * 2 - 1
        latents = self._vae.encode(view).latent_dist.mode() * self._vae.config.scaling_factor
        return latents[0].float().cpu(), self._pixels(picture)

    def _pixels(self, picture: torch.Tensor) -> torch.Tensor:
        squashed = attribute_view(picture[None], self._pixel_size)[0]
        return (squashed * 255).round().to(torch.uint8)

    def input_version(self) -> bytes:
        config, side = self._pipe.config, self._pipe.unet.config.sample_size
        return _digest(
            ["input and statistics", config.conditioning_size, config.conditioning_resize, side, self._pixel_size]
        )

    def target_version(self) -> bytes:
        weights = hashlib.sha256()
        for name, value in sorted(self._vae.state_dict().items()):
            weights.update(name.encode() + value.float().cpu().numpy().tobytes())
        config = {name: value for name, value in self._vae.config.items() if not name.startswith("_")}
        return _digest(["target", config, weights.hexdigest(), self._vae_side, self._pixel_size])


def unquantised(pixels: torch.Tensor) -> torch.Tensor:
    """8-bit pictures in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def quantised(pictures: torch.Tensor) -> np.ndarray:
    """(N, 3, p, p) in [-1, 1] -> 8-bit photos (N, p, p, 3)."""
    return ((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _digest(facts: Any) -> bytes:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).digest()


def vae_scale_factor(vae: ModelMixin) -> int:
    """Pixels per latent, each way, of an `AutoencoderKL` or a `FixedLatentCodec`."""
    blocks = vae.config.get("block_out_channels")
    return 2 ** (len(blocks) - 1) if blocks else vae.config.patch_size


class _Store:
    """The distinct pictures of a column, each encoded once to a few tensors in a file of its own.

    Files are named by the picture's bytes and `version`. One that is damaged is made again.

    Args:
        folder: where the files are.
        encode: picture (3, H, W) in [0, 1] -> tensors, of equal shapes for all pictures.
        version: what else the tensors depend on.

    Attributes:
        names: of each row's file.
    """

    def __init__(self, folder: Path, encode: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], version: bytes):
        self._folder, self._encode, self._version = folder, encode, version
        self._sound: set[str] = set()
        self.names: list[str] = []

    def add(self, data: bytes) -> None:
        """The next row's picture, as in a picture file."""
        name = hashlib.sha256(self._version + data).hexdigest() + ".safetensors"
        self.names.append(name)
        if name not in self._sound and _read_entry(self._folder / name) is None:
            picture = torch.from_numpy(np.array(decode({"bytes": data}))).permute(2, 0, 1).float() / 255
            write_atomically(self._folder / name, _entry(self._encode(picture)))
        self._sound.add(name)

    def read(self, row: int) -> tuple[torch.Tensor, ...]:
        """The tensors of row `row`.

        Raises:
            OSError: if its file has been damaged since the run began.
        """
        entry = _read_entry(self._folder / self.names[row])
        if entry is None:
            raise OSError(f"{self._folder / self.names[row]} was damaged while in use: start again, it is made anew.")
        return entry

    def of_rows(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors of rows `indices` (B,), each stacked."""
        return tuple(torch.stack(one) for one in zip(*(self.read(index) for index in indices.tolist()), strict=True))


def _entry(tensors: tuple[torch.Tensor, ...]) -> bytes:
    named = {str(number): tensor.contiguous() for number, tensor in enumerate(tensors)}
    return save(named, {"crc32": _checksum(tensors)})


def _read_entry(path: Path) -> tuple[torch.Tensor, ...] | None:
    """The tensors, None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = tuple(file.get_tensor(str(number)) for number in range(len(file.keys())))
            checksum = (file.metadata() or {}).get("crc32")
    except (OSError, SafetensorError):
        return None
    return tensors if checksum == _checksum(tensors) else None


def _checksum(tensors: tuple[torch.Tensor, ...]) -> str:
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(tensor.contiguous().numpy().data, checksum)
    return str(checksum)
