"""What travels with a model: every other file here is copied to its folder, and imports nothing of ours but these."""

import os.path

# Not by pathlib, which takes longer to import than all else that `import diffretouch` does.
BUNDLED_MODEL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bundled")
"""Folder of the model that ships with the package, for `DiffRetouchPipeline.from_pretrained`."""
