"""What decides how the retouch of a photo looks: the options of a batch, as values and as a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model import BUNDLED_MODEL

BY_A_LOOK = "a saved look"
_HASHED_WHOLE = 1 << 20  # bytes; of larger files the beginning and the end tell one training run from another


@dataclass(frozen=True)
class Settings:
    """All that decides what the retouch of a photo looks like.

    Args:
        colorfulness, brightness, contrast, temperature: the sliders, in [-1.5, 1.5].
        strength: in [0, 2].
        seed: of the style, 0 = the middle; variants count up from it.
        steps: sampling steps; None = the model's own.
        fast: the model's fast sampling instead, see `DiffRetouchPipeline.fast_sampling`.
        model: folder or Hub id; None = the bundled model.
        lora: adapters to load into it, folders, files or Hub ids.
        lora_scale: their weight.
        look: a saved retouch (.safetensors) to apply instead of asking the model.
        match: a photo whose tones and colours to come near, by sliders and a seed found for each photo.
        lut_size: nodes per side of .cube files.
        remove_gps: leave the place out of the metadata of what is written.
        allow_damaged: retouch what there is of photos that are damaged.
        quality: of what is written, see `save_photo`.
        record: write down in the metadata what was done.
        sign: files of a certificate and its private key, to sign the retouch with; see `Signer`.
        again: also retouch photos whose metadata says that they were retouched before; else a batch leaves them out.
    """

    colorfulness: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    temperature: float = 0.0
    strength: float = 1.0
    seed: int = 0
    steps: int | None = None
    fast: bool = False
    model: str | None = None
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0
    look: str | None = None
    match: str | None = None
    lut_size: int = 33
    remove_gps: bool = False
    allow_damaged: bool = False
    quality: int | None = None
    record: bool = True
    sign: tuple[str, str] | None = None
    again: bool = False

    @property
    def sliders(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("colorfulness", "brightness", "contrast", "temperature")}

    @property
    def done(self) -> str | None:
        """What these settings do to a photo, for its history; None where nothing is written down."""
        if not self.record:
            return None
        by = "matched to an example" if self.match else BY_A_LOOK if self.look else self.sliders
        return done_by(by, self.strength)

    def sampling(self, pipe: Any) -> dict[str, Any]:
        """What these settings say about the steps, as arguments of a call of `pipe`."""
        return pipe.fast_sampling() if self.fast else {"num_inference_steps": self.steps}

    def described(self) -> dict[str, Any]:
        """These settings as JSON, with a fingerprint of the files they name: equal means an equal retouch."""
        certificate = self.sign and self.sign[0]  # of the key, a report says nothing
        files = [self.look or self.model or BUNDLED_MODEL, *self.lora, *filter(None, (self.match, certificate))]
        fingerprints = [_fingerprint(Path(name)) for name in files]
        values = {**dataclasses.asdict(self), "lora": list(self.lora), "sign": certificate}
        values["fingerprints"] = fingerprints
        del values["again"]  # it decides which photos are retouched, not how
        return values


def done_by(by: Mapping[str, float] | str, strength: float) -> str:
    """What was done to a photo, for its history: by which sliders, or by what in their place."""
    what = by if isinstance(by, str) else ", ".join(f"{name} {value:g}" for name, value in by.items())
    return f"{what}, strength {strength:g}"


def _fingerprint(path: Path) -> str | None:
    """Of a file or all files of a folder, by name and content; None where there is neither, as for a Hub id."""
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}:".encode())
        with open(file, "rb") as stream:
            digest.update(stream.read(_HASHED_WHOLE))
            stream.seek(max(stream.tell(), size - _HASHED_WHOLE))
            digest.update(stream.read())
    return digest.hexdigest()[:16]
