"""Settings of the documentation site; `make docs` builds it into build/site.

Nothing in it comes from the network: furo uses the reader's own fonts, equations become outlines while the site is
built, and links to files of the repository lead to pages that hold them.
"""

import re
import sys
from pathlib import Path

import diffretouch

sys.path.insert(0, str(Path(__file__).parent))  # the two extensions beside this file

project = "DiffRetouch"
author = "the DiffRetouch contributors"
project_copyright = "the DiffRetouch contributors, Apache-2.0"
release = version = diffretouch.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "repository", "equations"]
exclude_patterns = ["README.md"]

html_theme = "furo"
html_title = "DiffRetouch"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
# The theme colours code for light and dark by itself; these two are easy to read on both.
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_enable_extensions = ["dollarmath"]
myst_url_schemes = ["http", "https", "mailto", "repository"]  # the last is repository.py's
myst_heading_anchors = 4  # links to headings, as they work where the READMEs are read
html_math_renderer = "outlines"

highlight_language = "text"  # of blocks that name none: diagrams
default_role = "code"  # docstrings mark code with single backticks, as Markdown does
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # an override without a docstring is not for callers
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as written: `MAX_PIXELS`, not its number
napoleon_use_ivar = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88


def setup(app):
    app.connect("autodoc-process-docstring", _keep_bars)


def _keep_bars(app, what, name, thing, options, lines):
    """|x| is an absolute value in our docstrings; reStructuredText would look for a text of that name."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`|^ *(?:>>>|\.\.\.).*)", line)  # code is code already
        lines[number] = "".join(part if at % 2 else part.replace("|", r"\|") for at, part in enumerate(parts))
