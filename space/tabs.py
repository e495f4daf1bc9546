"""The other tabs."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import strings
from editor import MAX_SEED, Editor, Refused
from page import INSTANT, MODEL, Controls, Session, by_slider, on_edit, told, work_of

from diffretouch import Look

_MAX_VARIANTS = 8
_PROGRESS = gr.Progress()  # Gradio shows the progress of a handler that has it as a default


def variants_tab(editor: Editor, session: gr.State, controls: Controls, tabs: gr.Tabs) -> None:
    gr.Markdown(strings.VARIANTS_EXPLAINED)
    count = gr.Slider(2, _MAX_VARIANTS, 6, step=1, label=strings.VARIANTS_COUNT, elem_id="variants-count")
    go = gr.Button(strings.VARIANTS_GO, variant="primary", elem_id="variants-go")
    gallery = gr.Gallery(
        label=strings.VARIANTS,
        columns=3,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        elem_id="variants",
    )
    shown_seeds = gr.State([])

    @told(editor)
    def show(now: Session, number: int, *numbers: float) -> tuple[list[Any], list[int]]:
        (upload, _), (*values, strength, seed) = work_of(now), numbers
        seeds = [(int(seed or 0) + i) % (MAX_SEED + 1) for i in range(int(number))]
        looks = editor.looks(now.model, upload.view, by_slider(values), seeds)
        pictures = [str(editor.preview(upload, look, strength)[0]) for look in looks]
        return [(path, strings.VARIANT.format(seed=s)) for path, s in zip(pictures, seeds, strict=True)], seeds

    def choose(seeds: list[int], event: gr.SelectData) -> tuple[int, gr.Tabs]:
        return seeds[event.index], gr.Tabs(selected="retouch")

    go.click(show, [session, count, *controls.asked], [gallery, shown_seeds], **MODEL)
    on_edit(editor, controls, gallery.select(choose, shown_seeds, [controls.seed, tabs], **INSTANT).then)


def batch_tab(editor: Editor, session: gr.State, controls: Controls) -> gr.Radio:
    """Returns the choice of what each photo is retouched with."""
    gr.Markdown(strings.BATCH_EXPLAINED.format(count=editor.settings.max_batch_files))
    files = gr.File(label=strings.BATCH_FILES, file_count="multiple", height=180, elem_id="batch-files")
    modes = [strings.BATCH_OWN, strings.BATCH_LOOK, strings.BATCH_STYLE]
    mode = gr.Radio(modes, value=strings.BATCH_OWN, label=strings.BATCH_MODE, elem_id="batch-mode")
    again = gr.Checkbox(label=strings.BATCH_AGAIN, value=False)
    go = gr.Button(strings.BATCH_GO, variant="primary", elem_id="batch-go")
    archive = gr.File(label=strings.BATCH_ZIP, interactive=False, elem_id="batch-zip")
    report = gr.Dataframe(headers=strings.BATCH_COLUMNS, label=strings.BATCH_REPORT, interactive=False, wrap=True)

    @told(editor)
    def run(
        now: Session,
        paths: list[str] | None,
        how: str,
        again: bool,
        remove_gps: bool,
        *numbers: float,
        progress=_PROGRESS,
    ) -> tuple[str, list[list[str]]]:
        allowed = editor.settings.max_batch_files
        if not paths:
            raise Refused(strings.NO_FILES)
        if len(paths) > allowed:
            raise Refused(strings.TOO_MANY_FILES.format(allowed=allowed, given=len(paths)))
        *values, strength, seed = numbers
        look = None
        if how == strings.BATCH_LOOK:
            look = work_of(now)[1]
        elif how == strings.BATCH_STYLE:
            look = _style_of(now)
        ask = {"model": now.model, "sliders": by_slider(values), "seed": seed, "again": again}
        rows = []
        target = editor.new_folder() / "retouched.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as bundle:
            for path in progress.tqdm(paths, desc=strings.PROGRESS_RETOUCH):
                rows.append(_batch_row(editor, bundle, path, strength, remove_gps, look, ask))
            bundle.writestr("report.json", json.dumps(rows, indent=2, ensure_ascii=False))
        done = sum(row["error"] is None for row in rows)
        gr.Info(strings.BATCH_DONE.format(done=done, count=len(rows)))
        return str(target), [
            [row["file"], row["error"] or "; ".join((row["result"], *row["notes"])), f"{row['seconds']:.2f}"]
            for row in rows
        ]

    go.click(
        run,
        [session, files, mode, again, controls.remove_gps, *controls.asked],
        [archive, report],
        show_progress_on=archive,
        concurrency_id="batch",
        concurrency_limit=1,
        api_visibility="private",
    )
    return mode


def _style_of(now: Session) -> Look:
    if now.style is None:
        raise Refused(strings.NO_STYLE)
    return now.style


def _batch_row(
    editor: Editor, bundle: zipfile.ZipFile, path: str, strength: float, remove_gps: bool, look: Any, ask: dict
) -> dict[str, Any]:
    """Retouch one photo into the archive; what it says in the report."""
    started, name, error = time.monotonic(), None, None
    notes: tuple[str, ...] = ()
    try:
        with editor.finished(path, strength, remove_gps, look=look, **ask) as result:
            name, notes = _free_name(result.path.name, bundle.namelist()), result.notes
            bundle.write(result.path, name)
    except Refused as refusal:
        error = str(refusal)
    seconds = round(time.monotonic() - started, 3)
    return {"file": Path(path).name, "result": name, "error": error, "notes": list(notes), "seconds": seconds}


def _free_name(name: str, taken: list[str]) -> str:
    """`name`, with a number where the archive has one of that name already."""
    path, number = Path(name), 2
    while name in taken:
        name, number = f"{path.stem}-{number}{path.suffix}", number + 1
    return name
