"""A real expert's taste, learned by a network: what the synthetic experts' judgement is distilled from.

The teacher is MAXIM-2S (Tu et al.: "MAXIM: Multi-Axis MLP for Image Processing", https://arxiv.org/abs/2201.02973),
which Google trained on expert C of MIT-Adobe FiveK, in the npm package of `PACKAGE`. `LICENCES` names whose it is.

    teacher = Teacher.from_package("package")    # the unpacked npm package
    answer = teacher.label(photo)                # what expert C might have made of a good photo

    wanted = teacher.answer(picture)             # of a raw converter's flat rendition, as it is

It is a regression to one expert's mean taste: whites stop at 245, blue skies turn grey-lavender, and it does not mend
what failed in the camera. `experts.natural` mends what it does to good photos.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..look.lut import Lut, fit_lut
from .light import quantise, to_linear, to_srgb
from .tfjs_graph import GraphError, TfjsGraph

MODEL = "models/model.json"
FACTOR = 64
"""Sides have to be multiples of it: the network halves them three times and parts what is left into 8 x 8 pixels."""

TABLE_SIZE = 17
"""Nodes a side of the table of colours that a label is, see `answer_table`."""

_SMALL_TABLE = 9  # nodes a side, for a picture of a few thousand pixels

# What makes a finished photo as dark, flat and dull as the renditions of raw files that the teacher has seen.
EXPOSURE = -0.7  # stops
CONTRAST = 0.85
SATURATION = 0.75
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)

LICENCES = {
    "package": "MIT, (c) Kevin Scott",
    "weights": "Apache-2.0, Google (google/maxim-s2-enhancement-fivek)",
    "training data": "MIT-Adobe FiveK, expert C, whose own terms are for research",
}


class TeacherError(ValueError):
    """A package that cannot be used: one sentence that names it and the reason."""


@dataclass(frozen=True)
class Package:
    """An npm package and what is read of it.

    Args:
        name, version: of the package.
        sha256: {file inside the package: sha256}, `MODEL` and its shards.
    """

    name: str
    version: str
    sha256: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


PACKAGE = Package(
    "@upscalerjs/maxim-retouching",
    "0.1.0",
    {
        MODEL: "9d4b58d641cd49ebe8caf77f55f7fcd74cfdf683155b9358f7c17f30db4b3d8d",
        "models/group1-shard1of14.bin": "d32929fde23909e248eef0a6d082cd0081daac700cfcc0f889cb3528167fb2f9",
        "models/group1-shard2of14.bin": "a805dfca360ad425fd53ceaa9c78cd124ff16d42d8d9ae1fb57f2f74835f95ee",
        "models/group1-shard3of14.bin": "09865819868701adc517f894c29197d216f14d2eff8a530cecc2bef9615160a5",
        "models/group1-shard4of14.bin": "7cc2ea7d229db412e02b45ada1b3545c0e9edff77d8c8f28d44b041df2b68e2a",
        "models/group1-shard5of14.bin": "e479ae8dc2be43b3b6420712e638b0cce8247e2d583b213adc52f36bd26e07bb",
        "models/group1-shard6of14.bin": "6e030bfc5668ccc60047709a4edf5e55c2078c99f942d599b246a2608b0f11d7",
        "models/group1-shard7of14.bin": "8deea7248e111d8190149994fdd51b1886aecce6771824d0a9d2a209a291edbd",
        "models/group1-shard8of14.bin": "3fd5d7f0cf543d5e4c1a8ecf1aeb267116638adb55cdafd05634896756d9a43b",
        "models/group1-shard9of14.bin": "106c4f83a70b22dd61cfc2ab4bba35072286f8aab92a1533e03cfc14835cf8a6",
        "models/group1-shard10of14.bin": "da7b316eed8facd633ca970fcdd56aa77ad4e71d0c3e92d8573516cca4176afb",
        "models/group1-shard11of14.bin": "663f2cd330e70284357f416a6eedf5361a664a5f05bab1ff18ded4ae841000b3",
        "models/group1-shard12of14.bin": "057347795e838a953b6815ee347f267439c6ec43971d558e258e51962b5f2bd5",
        "models/group1-shard13of14.bin": "a3ebfdc51e5209e4f7b397f08bb0e7d1b2ca3264ec7b2faf06ce7f3795643364",
        "models/group1-shard14of14.bin": "c919817a610bdacb36d056316ac2dea0171b44d45a252843d52ff6c565b661bb",
    },
)


class Teacher:
    """Retouches as FiveK's expert C would, by a network.

    Args:
        graph: (1, H, W, 3) sRGB in [0, 1], sides multiples of `FACTOR`, -> the same, not clipped.
    """

    def __init__(self, graph: TfjsGraph) -> None:
        self.graph = graph

    @classmethod
    def from_package(cls, folder: str | os.PathLike[str], package: Package = PACKAGE) -> Teacher:
        """The teacher of the unpacked npm package in `folder`, the one that has its package.json.

        Raises:
            TeacherError: if it is not there, another version, or damaged (`check_package`).
        """
        check_package(folder, package)
        try:
            return cls(TfjsGraph.read(Path(folder) / MODEL))
        except (GraphError, OSError) as error:
            raise TeacherError(f"{package} in {folder} cannot be run: {error}") from error

    def retouch(self, photo: np.ndarray) -> np.ndarray:
        """The network's answer to a `photo`, np.uint8 (H, W, 3) sRGB -> the same.

        5 seconds of one core for 256 x 256 pixels, in proportion for more. Padded by reflection, as in MAXIM's own
        evaluation: the padding is part of what the network sees, and zeros change a whole picture by up to 22 levels.

        Raises:
            TypeError, ValueError: if `photo` is anything else.
        """
        _check_photo(photo)
        height, width, _ = photo.shape
        tall, wide = -height % FACTOR, -width % FACTOR
        top, left = tall // 2, wide // 2
        padded = np.pad(photo, ((top, tall - top), (left, wide - left), (0, 0)), mode="reflect")
        picture = torch.from_numpy(padded.astype(np.float32) / 255)
        answer = self.graph(picture[None])[0].numpy()
        return quantise(answer[top : top + height, left : left + width])

    def answer(self, photo: np.ndarray) -> np.ndarray:
        """`retouch` carried to the photo's own pixels by a coarse table of colours: np.float32 (H, W, 3) in [0, 1].

        For small pictures: the answer less the stripes that the network leaves in smooth areas. On renditions of 144
        pixels it lies 1.5 Delta E 2000 from the answer to one of 320.

        Raises:
            TypeError, ValueError: if `photo`, np.uint8 (H, W, 3) sRGB, is anything else.
        """
        table = _table(photo, self.retouch(photo), _SMALL_TABLE)
        return np.clip(table.apply(photo.astype(np.float32) / 255), 0, 1)

    def label(self, photo: np.ndarray) -> np.ndarray:
        """What the expert might have made of a good, finished `photo`: np.uint8 (H, W, 3) sRGB -> the same.

        Of finished photos themselves the network makes neon greens and clipped channels; see `flatten`.

        Raises:
            TypeError, ValueError: if `photo` is anything else.
        """
        return self.retouch(flatten(photo))


def answer_table(photo: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """A teacher's `answer` to a `photo`, both np.uint8 (H, W, 3), as a table of colours: np.uint8 (S, S, S, 3).

    S = `TABLE_SIZE`, axes as of `Lut.table`. It carries the answer to the photo's own pixels: a teacher works at 256
    pixels, leaves stripes in smooth areas, which finer tables follow, and its taste is nearly the same everywhere.
    """
    return quantise(_table(photo, answer, TABLE_SIZE).table)


def _table(photo: np.ndarray, answer: np.ndarray, nodes: int) -> Lut:
    colours, targets = (picture.reshape(-1, 3).astype(np.float32) / 255 for picture in (photo, answer))
    return fit_lut(colours, targets, nodes)


def flatten(photo: np.ndarray) -> np.ndarray:
    """A finished `photo` as a raw converter might have shown it before the retouch: np.uint8 (H, W, 3) -> the same.

    `EXPOSURE` in linear light; then, in sRGB, `CONTRAST` around the mean of all values and `SATURATION` around the
    luma (Rec. 709). Without it chroma comes out at 22 for the photo's 17, with it at 18.

    Raises:
        TypeError, ValueError: if `photo` is anything else.
    """
    _check_photo(photo)
    dark = to_srgb(to_linear(photo) * 2**EXPOSURE)
    mean = dark.mean()
    flat = mean + CONTRAST * (dark - mean)
    luma = (flat @ _LUMA)[..., None]
    return quantise(luma + SATURATION * (flat - luma))


def check_package(folder: str | os.PathLike[str], package: Package = PACKAGE) -> None:
    """See that `folder` has the `package` in that very version, with every byte that is read of it.

    Raises:
        TeacherError: if not.
    """
    wanted = f"the teacher has to be the unpacked npm package {package}"
    try:
        found = json.loads((Path(folder) / "package.json").read_bytes())
        name, version = found["name"], found["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TeacherError(f"{wanted}, but {folder} has no readable package.json") from error
    if (name, version) != (package.name, package.version):
        raise TeacherError(f"{wanted}, but {folder} has {name} {version}")
    for file, sha256 in package.sha256.items():
        try:
            with open(Path(folder) / file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise TeacherError(f"{wanted}, but {folder} has no readable {file}") from error
        if digest != sha256:
            raise TeacherError(f"{wanted}, but {file} in {folder} is damaged: its sha256 is {digest}, not {sha256}")


def _check_photo(photo: np.ndarray) -> None:
    if not isinstance(photo, np.ndarray):
        raise TypeError(f"`photo` has to be a numpy array, got {type(photo).__name__}.")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise ValueError(f"`photo` has to be np.uint8 (H, W, 3), got {photo.dtype} {photo.shape}.")
