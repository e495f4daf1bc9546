"""What travels with a model: every other file here is copied to its folder, and imports nothing of ours but these."""

from pathlib import Path

BUNDLED_MODEL = str(Path(__file__).parents[1] / "bundled")
"""Folder of the model that ships with the package, for `DiffRetouchPipeline.from_pretrained`."""
