"""The tab "My style": pairs of photos before and after an edit in, the look behind them out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import strings
from editor import Editor
from page import INSTANT, Session, told
from styles import find_style


def style_tab(editor: Editor, session: gr.State, batch_mode: gr.Radio, tabs: gr.Tabs) -> None:
    gr.Markdown(strings.STYLE_EXPLAINED)
    with gr.Row():
        before, after = (
            gr.File(label=label, file_count="multiple", height=160, elem_id=f"style-{side}")
            for label, side in ((strings.STYLE_BEFORE, "before"), (strings.STYLE_AFTER, "after"))
        )
    go = gr.Button(strings.STYLE_GO, variant="primary", elem_id="style-go")
    with gr.Column(visible=False, elem_id="style-found") as results:
        line = gr.Markdown(elem_id="style-told")
        pictures = gr.Gallery(
            label=strings.STYLE_PICTURES,
            columns=3,
            object_fit="contain",
            height="auto",
            allow_preview=True,
            interactive=False,
            elem_id="style-pictures",
        )
        pairs = gr.Dataframe(
            headers=strings.STYLE_COLUMNS,
            label=strings.STYLE_PAIRS,
            interactive=False,
            wrap=True,
            column_widths=["45%", "55%"],
            elem_id="style-pairs",
        )
        files = gr.File(label=strings.STYLE_FILES, file_count="multiple", interactive=False, elem_id="style-files")
        use = gr.Button(strings.STYLE_USE, elem_id="style-use")
        with gr.Accordion(strings.STYLE_TRAIN, open=False):
            gr.Markdown(strings.STYLE_TRAIN_EXPLAINED)
            gr.Code(strings.STYLE_TRAIN_LINES, language="shell", interactive=False, elem_id="style-train")

    @told(editor)
    def find(now: Session, befores: list[str] | None, afters: list[str] | None) -> tuple[Any, ...]:
        style = find_style(editor, befores or [], afters or [])
        shown = gr.update(visible=True)
        return replace(now, style=style.look), shown, style.told, style.pictures, style.rows, style.files

    go.click(
        find,
        [session, before, after],
        [session, results, line, pictures, pairs, files],
        show_progress_on=go,
        concurrency_id="style",
        concurrency_limit=1,
        api_visibility="private",
    )
    use.click(lambda: (strings.BATCH_STYLE, gr.Tabs(selected="batch")), None, [batch_mode, tabs], **INSTANT)
