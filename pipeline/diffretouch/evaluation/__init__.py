"""How good a model is: measured, summarised, reported."""

from ..moved import old_names

__getattr__ = old_names(__name__)
