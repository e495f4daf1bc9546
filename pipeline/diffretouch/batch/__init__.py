"""Many photo files: which, how, and what was done."""

from ..moved import old_names

__getattr__ = old_names(__name__)
