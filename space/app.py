"""The page: `python app.py` serves it, on a Hugging Face Space as on a laptop.

This file only puts the page together and serves it; its tabs are in tab_retouch.py, tab_style.py and tabs.py, what
happens to photos is in editor.py and styles.py, every sentence in strings.py, the presets in presets.json, the limits
in settings.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
import strings  # noqa: E402
from editor import Editor  # noqa: E402
from endpoints import endpoints  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from page import EXAMPLES, HERE, INSTANT, Session  # noqa: E402
from settings import Settings, read_settings  # noqa: E402
from tab_retouch import retouch_tab  # noqa: E402
from tab_style import style_tab  # noqa: E402
from tabs import batch_tab, variants_tab  # noqa: E402

from diffretouch.extras import MissingExtra, require  # noqa: E402


def build(settings: Settings) -> gr.Blocks:
    """The whole page with its named endpoints."""
    editor = Editor(settings, Path(get_upload_folder()) / "diffretouch-results")
    keep_seconds = int(settings.keep_minutes * 60)
    with gr.Blocks(title=strings.TITLE, analytics_enabled=False, delete_cache=(60, keep_seconds)) as page:
        session = gr.State(Session(editor.models.default), time_to_live=keep_seconds)
        gr.Markdown(f"# {strings.TITLE}\n{strings.TAGLINE}", elem_id="headline")
        with gr.Tabs() as tabs:
            with gr.Tab(strings.TAB_RETOUCH, id="retouch"):
                controls = retouch_tab(editor, session)
            with gr.Tab(strings.TAB_VARIANTS, id="variants"):
                variants_tab(editor, session, controls, tabs)
            with gr.Tab(strings.TAB_BATCH, id="batch"):
                batch_mode = batch_tab(editor, session, controls)
            with gr.Tab(strings.TAB_STYLE, id="style"):
                style_tab(editor, session, batch_mode, tabs)
            with gr.Tab(strings.TAB_ABOUT, id="about"):
                about = gr.Markdown()
        endpoints(editor)

        def tell(request: gr.Request) -> str:
            url = str(getattr(request, "url", "")).partition("/gradio_api")[0]
            return strings.ABOUT.format(minutes=settings.keep_minutes, url=url)

        page.load(tell, None, about, **INSTANT)
    return page.queue(max_size=settings.max_waiting, default_concurrency_limit=4)


# A slider released with the keyboard counts as released; a double click sets one back; pictures get their alt texts.
_HEAD = (
    f"""<style>
/* For the picture that stays in sight on a phone (style.css reaches only what is inside of this element). */
@media (max-width: 640px) {{ .gradio-container {{ overflow: visible !important; }} }}
</style>
<script>
const COMPARE_TEXTS = {json.dumps([strings.ALT_BEFORE, strings.ALT_AFTER])};
const EXAMPLE_TEXTS = {json.dumps([strings.ALT_EXAMPLE.format(name=path.stem) for path in EXAMPLES])};
</script>
"""
    """<script>
document.addEventListener("keyup", (event) => {
  if (event.target.matches?.(".retouch-slider input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key))
    event.target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
});
document.addEventListener("dblclick", (event) => {
  if (event.target.matches?.(".retouch-slider input[type=range]"))
    event.target.closest(".retouch-slider").querySelector("button")?.click();
});
new MutationObserver(() => {
  const name = (images, texts) => images.forEach((image, i) => { image.alt ||= texts[i % texts.length]; });
  name(document.querySelectorAll("#compare img"), COMPARE_TEXTS);
  name(document.querySelectorAll("#examples img"), EXAMPLE_TEXTS);
}).observe(document, {childList: true, subtree: true});
</script>"""
)


def main() -> int:
    """Serve the page until stopped; returns the exit code."""
    try:
        settings = read_settings()
        if settings.mcp:
            require("`DIFFRETOUCH_MCP`", "mcp", ["mcp"])
        page = build(settings)
    except (ValueError, MissingExtra) as error:
        print(f"space: {error}", file=sys.stderr)
        return 2
    font = ["system-ui", "sans-serif"]
    page.launch(
        theme=gr.themes.Soft(font=font, font_mono=["ui-monospace", "monospace"]),
        css_paths=HERE / "style.css",
        head=_HEAD,
        max_file_size=int(settings.max_upload_mb * 1e6),
        state_session_capacity=settings.max_sessions,
        show_error=True,
        ssr_mode=False,
        mcp_server=settings.mcp,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
