"""Equations as SVG outlines, made while the site is built: alike in every browser, without a script or a font.

MathML would be smaller, but browsers set it well only where a font for mathematics is installed.
"""

from __future__ import annotations

import html
import re
from typing import Any

import ziamath
from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)
ziamath.config.svg2 = False  # outlines in place: glyphs by name would have one id for several equations
_SIZE = 100  # of the font, in the drawing's own units
_SCALE = 1.1  # to the text around it, whose letters are larger than their size says


def _svg(node: nodes.math | nodes.math_block, inline: bool) -> str:
    source = node.astext()
    try:
        drawn = ziamath.Latex(source, size=_SIZE, inline=inline, color="currentColor")
    except Exception as error:  # of three libraries, each with its own for what they cannot read
        logger.warning("%s in the equation %s", error, source, location=node)
        return ""
    width, height, drop = (f"{_SCALE * length / _SIZE:.3f}em" for length in (*drawn.getsize(), drawn.getyofst()))
    picture = re.sub(r"(\d\.\d\d)\d+", r"\1", drawn.svg())
    picture = re.sub(r'width="[^"]*" height="[^"]*"', f'width="{width}" height="{height}"', picture, count=1)
    told = f'<svg role="img" aria-label="{html.escape(source)}" style="vertical-align: {drop}"'
    return picture.replace("<svg", told, 1)


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_svg(node, inline=True))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    # A box of its own, so that a long equation scrolls on a phone instead of widening the page.
    translator.body.append(f'<div class="equation">{_svg(node, inline=False)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("outlines", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
