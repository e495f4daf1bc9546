"""The Retouch tab: the photo, its sliders, the live before and after, downloads, looks and models."""

from __future__ import annotations

import functools
import html
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import strings
from editor import MAX_SEED, Editor, Refused
from page import (
    EXAMPLES,
    FILES,
    INSTANT,
    MODEL,
    PRESETS,
    Controls,
    Session,
    bars,
    by_slider,
    on_edit,
    quiet,
    retouched,
    told,
    work_of,
)

from diffretouch.attributes import ATTRIBUTES


def retouch_tab(editor: Editor, session: gr.State) -> Controls:
    with gr.Row(equal_height=False, elem_classes="stage"):
        with gr.Column(scale=3, min_width=320):
            photo = gr.File(label=strings.UPLOAD, elem_id="photo", height=120)
            examples = _examples()
            compare = _compare()
            note = gr.Markdown(strings.COMPARE_EMPTY, elem_id="note")
            measured = gr.HTML(bars(), elem_id="measured")
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown([*PRESETS, strings.CUSTOM_PRESET], label=strings.PRESET, elem_id="preset")
            sliders = [_slider(name, *words, -1, 1, 0) for name, words in strings.SLIDERS.items()]
            strength = _slider("strength", *strings.STRENGTH, 0, 2, 1)
            seed = quiet(gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label=strings.SEED, elem_id="seed"))
            lock = gr.Checkbox(False, label=strings.LOCK, elem_id="lock")
            with gr.Row():
                dice = gr.Button(strings.DICE, elem_id="dice", min_width=120)
                surprise = gr.Button(strings.SURPRISE, elem_id="surprise", min_width=120)
            reset = gr.Button(strings.RESET, elem_id="reset")
            remove_gps = gr.Checkbox(False, label=strings.REMOVE_GPS, elem_id="remove-gps")
            prepare = gr.Button(strings.PREPARE, variant="primary", elem_id="prepare")
            save = gr.DownloadButton(strings.SAVE_EMPTY, visible=False, variant="primary", elem_id="save")
            gr.Markdown(strings.DOWNLOAD_NOTE, elem_classes="fine-print")
            controls = Controls(sliders, strength, seed, remove_gps, [session, compare, note, measured, save])
            _wire_download(editor, session, controls, prepare, save)
            _match_part(editor, session, controls, preset)
            _looks_part(editor, session, controls)
            _model_part(editor, session, controls)

    @told(editor)
    def open_photo(now: Session, path: str | None, locked: bool, *numbers: float) -> tuple[Any, ...]:
        upload = None if path is None else editor.open(path, now.model)
        seed_now = int(numbers[-1] or 0) if locked else 0
        fresh = Session(now.model, upload, style=now.style)
        return (*retouched(editor, fresh, *numbers[:-1], seed_now), seed_now)

    photo.change(
        open_photo,
        [session, photo, lock, *controls.asked],
        [*controls.shown, seed],
        show_progress_on=compare,
        trigger_mode="always_last",
        concurrency_limit=2,
        api_visibility="private",
    )
    examples.click(lambda index: str(EXAMPLES[index]), examples, photo, **INSTANT)
    # One listener for all of them, so that of several changes the newest wins.
    moved = [part.release for part in (*sliders, strength)] + [seed.submit, seed.blur]
    on_edit(editor, controls, functools.partial(gr.on, moved), trigger_mode="always_last")
    for part in sliders:
        part.release(lambda: strings.CUSTOM_PRESET, None, preset, **INSTANT)
    on_edit(editor, controls, preset.input(_preset, [preset, *sliders], sliders, **INSTANT).then)
    on_edit(editor, controls, dice.click(_random_seed, None, seed, **INSTANT).then)
    on_edit(editor, controls, surprise.click(_surprise, [seed, lock], [*sliders, seed, preset], **INSTANT).then)
    neutral = (0, 0, 0, 0, 1, next(iter(PRESETS)))
    on_edit(editor, controls, reset.click(lambda: neutral, None, [*sliders, strength, preset], **INSTANT).then)
    return controls


def _examples() -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Image(render=False, type="filepath")],
        samples=[[str(path)] for path in EXAMPLES],
        label=strings.EXAMPLES,
        type="index",
        elem_id="examples",
    )


def _compare() -> gr.ImageSlider:
    return gr.ImageSlider(
        label=strings.COMPARE, type="filepath", height=560, max_height=560, interactive=False, elem_id="compare"
    )


def _slider(name: str, label: str, info: str, low: float, high: float, start: float) -> gr.Slider:
    shown: dict[str, Any] = {"label": label, "info": info, "elem_id": name, "elem_classes": "retouch-slider"}
    return quiet(gr.Slider(low, high, start, step=0.01, **shown))


def _preset(name: str, *values: float) -> list[float]:
    sliders = PRESETS.get(name, by_slider(values))
    return [sliders[attribute] for attribute in ATTRIBUTES]


def _random_seed() -> int:
    return random.randrange(100_000)  # short enough to note down


def _surprise(seed: int, locked: bool) -> list[Any]:
    values = [round(random.uniform(-0.8, 0.8), 2) for _ in ATTRIBUTES]
    return [*values, seed if locked else _random_seed(), strings.CUSTOM_PRESET]


def _wire_download(
    editor: Editor, session: gr.State, controls: Controls, prepare: gr.Button, save: gr.DownloadButton
) -> None:
    @told(editor)
    def finish(now: Session, strength: float, remove_gps: bool) -> Any:
        upload, look = work_of(now)
        path, notes = editor.finish(upload.path, strength, remove_gps, look=look)
        for note in notes:
            gr.Warning(f"{upload.name}: {note}")
        label = strings.SAVE.format(name=path.name, size=_readable(path.stat().st_size))
        return gr.update(value=str(path), label=label, visible=True)

    prepare.click(finish, [session, controls.strength, controls.remove_gps], save, **FILES)


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _match_part(editor: Editor, session: gr.State, controls: Controls, preset: gr.Dropdown) -> None:
    with gr.Accordion(strings.MATCH, open=False, elem_id="match-part"):
        gr.Markdown(strings.MATCH_EXPLAINED)
        example = gr.File(label=strings.MATCH_FILE, height=120, elem_id="match-file")
        go = gr.Button(strings.MATCH_GO, elem_id="match-go")
        line = gr.Markdown(elem_id="match-line")

    @told(editor)
    def liken(now: Session, path: str | None) -> tuple[Any, ...]:
        upload, _ = work_of(now)
        if path is None:
            raise Refused(strings.NO_EXAMPLE)
        found = editor.match(now.model, upload, path)
        nearness = found.nearness[0].upper() + found.nearness[1:] + "."
        return (*found.sliders.values(), found.strength, found.seed, strings.CUSTOM_PRESET, nearness)

    found = go.click(liken, [session, example], [*controls.asked, preset, line], show_progress_on=line, **MODEL)
    on_edit(editor, controls, found.success)


def _looks_part(editor: Editor, session: gr.State, controls: Controls) -> None:
    with gr.Accordion(strings.LOOKS, open=False):
        gr.Markdown(strings.LOOK_EXPLAINED)
        save = gr.Button(strings.LOOK_SAVE, elem_id="look-save")
        files = gr.File(label=strings.LOOK_FILES, file_count="multiple", interactive=False, elem_id="look-files")
        error_line = gr.Markdown()
        load = gr.File(label=strings.LOOK_LOAD, file_types=[".safetensors"], height=120, elem_id="look-load")

    @told(editor)
    def write(now: Session, strength: float) -> tuple[list[str], str]:
        paths, mean, p95 = editor.write_look(*work_of(now), strength)
        return [str(path) for path in paths], strings.CUBE_ERROR.format(mean=mean, p95=p95)

    @told(editor)
    def apply(now: Session, path: str | None, *numbers: float) -> tuple[Any, ...]:
        if path is None:
            return (gr.skip(),) * len(controls.shown)
        (upload, _), look = work_of(now), editor.read_look(path)
        asked = (now.model, *numbers[:4], numbers[5])
        return retouched(
            editor, replace(now, upload=upload, look=look, asked=asked, look_name=Path(path).name), *numbers
        )

    save.click(
        write, [session, controls.strength], [files, error_line], concurrency_id="files", api_visibility="private"
    )
    load.change(apply, [session, load, *controls.asked], controls.shown, **MODEL)


def _model_part(editor: Editor, session: gr.State, controls: Controls) -> None:
    with gr.Accordion(strings.MODEL, open=False):
        model = gr.Textbox(editor.settings.model, label=strings.MODEL_ID, info=strings.MODEL_INFO, elem_id="model")
        adapter = gr.Textbox(editor.settings.adapter, label=strings.ADAPTER, elem_id="adapter")
        button = gr.Button(strings.MODEL_LOAD, elem_id="model-load")
    line = gr.Markdown(_model_line(editor, editor.models.default), elem_id="model-line", elem_classes="fine-print")

    @told(editor)
    def load(now: Session, *names: str) -> tuple[Session, str]:
        key = (names[0].strip(), names[1].strip())
        editor.models.get(key)
        return replace(now, model=key), _model_line(editor, key)

    loaded = button.click(
        load, [session, model, adapter], [session, line], concurrency_limit=1, api_visibility="private"
    )
    on_edit(editor, controls, loaded.success)


def _model_line(editor: Editor, key: tuple[str, str]) -> str:
    name = " + ".join(html.escape(part) for part in (key[0] or strings.BUNDLED, key[1]) if part)
    return strings.MODEL_LINE.format(model=name, licence=html.escape(editor.models.licence(key)))
