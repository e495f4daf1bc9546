"""What an operator may set: each field is the environment variable DIFFRETOUCH_<FIELD> in capitals."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Limits and defaults of the page."""

    model: str = ""  # Hub id or folder; empty = the bundled model
    adapter: str = ""  # LoRA adapter of that model, or none
    max_megapixels: float = 120.0  # larger photos are refused before they are decoded
    max_upload_mb: float = 400.0  # per file
    max_batch_files: int = 50
    keep_minutes: float = 60.0  # uploads, results and sessions are deleted after this time without use
    max_per_minute: int = 60 if "SPACE_ID" in os.environ else 1_000_000  # requests of one visitor; a batch is one
    max_waiting: int = 64  # further requests are told to come back later
    max_sessions: int = 500  # visitors whose photo is kept ready, 5 MB of memory each; then the oldest goes
    preview_side: int = 1400  # longer side of the picture on the page, pixels
    mcp: bool = False  # whether agents may call the endpoints as tools (Model Context Protocol)
    allow_folders: bool = "SPACE_ID" not in os.environ  # a public page must not show what is its server's


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment.

    Raises:
        ValueError: naming the variable, what is allowed and what it holds.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        name = f"DIFFRETOUCH_{field.name.upper()}"
        if name in environment:
            values[field.name] = _parse(name, environment[name], type(field.default))
    return Settings(**values)


def _parse(name: str, text: str, kind: type) -> str | float | int | bool:
    if kind is str:
        return text
    if kind is bool:
        if text in ("0", "1"):
            return text == "1"
        raise ValueError(f"`{name}` has to be 0 or 1, got {text!r}.")
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name}` has to be a positive number, got {text!r}.")
    return value
