"""Where a benchmark writes what it found."""

from __future__ import annotations

from pathlib import Path


def require_folder(output: Path) -> None:
    """A measurement takes long; a misspelt folder should not cost one.

    Raises:
        FileNotFoundError: if the folder of `output` does not exist.
    """
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`--output` has to be in an existing folder, got {output}.")
