"""Models in and out: checkpoints, self-contained folders, their cards, the Hub."""

from ..moved import old_names

__getattr__ = old_names(__name__)
