"""The page: `python app.py` serves it, on a Hugging Face Space as on a laptop.

This file only wires the page together; what happens to photos is in editor.py, every sentence in strings.py, the
presets in presets.json, the limits in settings.py.
"""

from __future__ import annotations

import functools
import html
import json
import os
import random
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
import strings  # noqa: E402
from editor import MAX_SEED, Editor, Refused, Upload  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from settings import Settings, read_settings  # noqa: E402

from diffretouch import AffineGrid  # noqa: E402
from diffretouch.attributes import ATTRIBUTES  # noqa: E402

HERE = Path(__file__).parent
PRESETS = {preset["name"]: preset["sliders"] for preset in json.loads((HERE / "presets.json").read_text())}
EXAMPLES = sorted((HERE / "examples").glob("*.jpg")) or sorted((HERE.parent / "examples").glob("*.jpg"))
# (lowest, highest) score that the bars show.
_SCALES = {"colorfulness": (0, 0.45), "brightness": (0, 1), "contrast": (0, 0.03), "temperature": (-150, 150)}
_MAX_VARIANTS = 8


@dataclass(frozen=True)
class Session:
    """What one visitor is working on.

    Attributes:
        model: Hub id or folder of the model and of its LoRA adapter, empty for the bundled one and for none.
        upload: the photo, None before the first one.
        look: its retouch, the model's own or one read from a file.
        asked: model, sliders and seed that the look answers; while they stay, the look does.
        look_name: the file that the look was read from, if it was.
    """

    model: tuple[str, str]
    upload: Upload | None = None
    look: AffineGrid | None = None
    asked: tuple | None = None
    look_name: str | None = None


def _work_of(session: Session) -> tuple[Upload, AffineGrid]:
    """The photo and its look.

    Raises:
        Refused: if there is no photo yet.
    """
    if session.upload is None or session.look is None:
        raise Refused(strings.NO_PHOTO)
    return session.upload, session.look


def _told(function: Callable) -> Callable:
    """What the library refuses is shown to the visitor in the library's own sentence."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Refused as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return wrapped


def build(settings: Settings) -> gr.Blocks:
    """The whole page with its named endpoints."""
    editor = Editor(settings, Path(get_upload_folder()) / "diffretouch-results")
    keep_seconds = int(settings.keep_minutes * 60)
    with gr.Blocks(title=strings.TITLE, analytics_enabled=False, delete_cache=(60, keep_seconds)) as page:
        session = gr.State(Session(editor.models.default), time_to_live=keep_seconds)
        gr.Markdown(f"# {strings.TITLE}\n{strings.TAGLINE}", elem_id="headline")
        with gr.Tabs() as tabs:
            with gr.Tab(strings.TAB_RETOUCH, id="retouch"):
                controls = _retouch_tab(editor, session)
            with gr.Tab(strings.TAB_VARIANTS, id="variants"):
                _variants_tab(editor, session, controls, tabs)
            with gr.Tab(strings.TAB_BATCH, id="batch"):
                _batch_tab(editor, session, controls)
            with gr.Tab(strings.TAB_ABOUT, id="about"):
                about = gr.Markdown()
        _endpoints(editor)

        def tell(request: gr.Request) -> str:
            url = str(getattr(request, "url", "")).partition("/gradio_api")[0]
            return strings.ABOUT.format(minutes=settings.keep_minutes, url=url)

        page.load(tell, None, about, **_INSTANT)
    return page.queue(max_size=settings.max_waiting, default_concurrency_limit=4)


# Handlers that do no work on a photo answer at once, whatever is waiting.
_INSTANT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_FILES: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2, "api_visibility": "private"}
# One run of the model at a time per process, in the order of asking.
_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


_PROGRESS = gr.Progress()  # Gradio shows the progress of a handler that has it as a default


# ---- the Retouch tab -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Controls:
    """The parts of the Retouch tab that the other tabs use."""

    sliders: list[gr.Slider]
    strength: gr.Slider
    seed: gr.Number
    remove_gps: gr.Checkbox
    shown: list[Any]  # session, pictures, note, bars, file to download: what a new retouch changes

    @property
    def asked(self) -> list[Any]:
        return [*self.sliders, self.strength, self.seed]


def _retouch_tab(editor: Editor, session: gr.State) -> Controls:
    with gr.Row(equal_height=False, elem_classes="stage"):
        with gr.Column(scale=3, min_width=320):
            photo = gr.File(label=strings.UPLOAD, elem_id="photo", height=120)
            examples = _examples()
            compare = gr.ImageSlider(
                label=strings.COMPARE,
                type="filepath",
                height=560,
                max_height=560,
                interactive=False,
                elem_id="compare",
            )
            note = gr.Markdown(strings.COMPARE_EMPTY, elem_id="note")
            measured = gr.HTML(_bars(), elem_id="measured")
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown([*PRESETS, strings.CUSTOM_PRESET], label=strings.PRESET, elem_id="preset")
            sliders = [_slider(name, *words, -1, 1, 0) for name, words in strings.SLIDERS.items()]
            strength = _slider("strength", *strings.STRENGTH, 0, 2, 1)
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label=strings.SEED, elem_id="seed")
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
            _looks_part(editor, session, controls)
            _model_part(editor, session, controls)

    @_told
    def open_photo(now: Session, path: str | None, locked: bool, *numbers: float) -> tuple[Any, ...]:
        upload = None if path is None else editor.open(path, now.model)
        seed_now = int(numbers[-1] or 0) if locked else 0
        return (*_retouched(editor, Session(now.model, upload), *numbers[:-1], seed_now), seed_now)

    photo.change(
        open_photo,
        [session, photo, lock, *controls.asked],
        [*controls.shown, seed],
        show_progress_on=compare,
        trigger_mode="always_last",
        concurrency_limit=2,
        api_visibility="private",
    )
    examples.click(lambda index: str(EXAMPLES[index]), examples, photo, **_INSTANT)
    # One listener for all of them, so that of several changes the newest wins.
    moved = [part.release for part in (*sliders, strength)] + [seed.submit, seed.blur]
    _on_edit(editor, controls, functools.partial(gr.on, moved), trigger_mode="always_last")
    for part in sliders:
        part.release(lambda: strings.CUSTOM_PRESET, None, preset, **_INSTANT)
    _on_edit(editor, controls, preset.input(_preset, [preset, *sliders], sliders, **_INSTANT).then)
    _on_edit(editor, controls, dice.click(_random_seed, None, seed, **_INSTANT).then)
    _on_edit(editor, controls, surprise.click(_surprise, [seed, lock], [*sliders, seed, preset], **_INSTANT).then)
    neutral = (0, 0, 0, 0, 1, next(iter(PRESETS)))
    _on_edit(editor, controls, reset.click(lambda: neutral, None, [*sliders, strength, preset], **_INSTANT).then)
    return controls


def _examples() -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Image(render=False, type="filepath")],
        samples=[[str(path)] for path in EXAMPLES],
        label=strings.EXAMPLES,
        type="index",
        elem_id="examples",
    )


def _slider(name: str, label: str, info: str, low: float, high: float, start: float) -> gr.Slider:
    return gr.Slider(low, high, start, step=0.01, label=label, info=info, elem_id=name, elem_classes="retouch-slider")


def _on_edit(editor: Editor, controls: Controls, event: Callable, **options: Any) -> Any:
    """After `event`, retouch anew as sliders, strength and seed say."""
    return event(
        fn=_told(functools.partial(_retouched, editor)),
        inputs=[controls.shown[0], *controls.asked],
        outputs=controls.shown,
        show_progress="minimal",
        show_progress_on=controls.shown[1],
        **_MODEL,
        **options,
    )


def _retouched(editor: Editor, now: Session, *numbers: float) -> tuple[Any, ...]:
    """Session, pictures, note and bars, with sliders, strength and seed as in `numbers`; no file to download yet.

    An emptied seed field is seed 0.
    """
    *values, strength, seed = numbers
    nothing = gr.update(visible=False)
    upload, look = now.upload, now.look
    if upload is None:
        return now, None, strings.COMPARE_EMPTY, _bars(), nothing
    editor.keep(upload)
    asked = (now.model, *values, seed)
    if look is None or asked != now.asked:
        (look,) = editor.looks(now.model, upload.view, _by_slider(values), [int(seed or 0)])
        now = replace(now, look=look, asked=asked, look_name=None)
    after, scores = editor.preview(upload, look, strength)
    note = strings.LOOK_ACTIVE.format(name=now.look_name) if now.look_name else ""
    return now, (str(upload.before), str(after)), note, _bars(upload.scores, scores), nothing


def _by_slider(values: Sequence[float]) -> dict[str, float]:
    """Four numbers in the sliders' order, by name."""
    return dict(zip(ATTRIBUTES, values, strict=True))


def _preset(name: str, *values: float) -> list[float]:
    sliders = PRESETS.get(name, _by_slider(values))
    return [sliders[attribute] for attribute in ATTRIBUTES]


def _random_seed() -> int:
    return random.randrange(100_000)  # short enough to note down


def _surprise(seed: int, locked: bool) -> list[Any]:
    values = [round(random.uniform(-0.8, 0.8), 2) for _ in ATTRIBUTES]
    return [*values, seed if locked else _random_seed(), strings.CUSTOM_PRESET]


def _bars(before: tuple[float, ...] | None = None, after: tuple[float, ...] | None = None) -> str:
    """The measured attributes as a small table of bars."""
    if before is None or after is None:
        return f'<p class="empty">{strings.MEASURED_EMPTY}</p>'
    rows = []
    for name, old, new in zip(ATTRIBUTES, before, after, strict=True):
        low, high = _SCALES[name]
        places = [100 * min(1, max(0, (score - low) / (high - low))) for score in (old, new)]
        rows.append(
            f'<div class="bar" role="img" aria-label="{strings.SLIDERS[name][0]}: {strings.BEFORE} {places[0]:.0f}%, '
            f'{strings.AFTER} {places[1]:.0f}%"><span>{strings.SLIDERS[name][0]}</span><div class="track">'
            f'<i class="change" style="left:{min(places):.1f}%;width:{abs(places[1] - places[0]):.1f}%"></i>'
            f'<i class="old" style="left:{places[0]:.1f}%"></i><i class="new" style="left:{places[1]:.1f}%"></i>'
            "</div></div>"
        )
    legend = f'<small><i class="old"></i> {strings.BEFORE} <i class="new"></i> {strings.AFTER}</small>'
    return f'<div class="bars"><b>{strings.MEASURED}</b> {legend}{"".join(rows)}</div>'


# ---- downloads, looks, models --------------------------------------------------------------------------------------


def _wire_download(
    editor: Editor, session: gr.State, controls: Controls, prepare: gr.Button, save: gr.DownloadButton
) -> None:
    @_told
    def finish(now: Session, strength: float, remove_gps: bool) -> Any:
        upload, look = _work_of(now)
        path = editor.finish(upload.path, strength, remove_gps, look=look)
        label = strings.SAVE.format(name=path.name, size=_readable(path.stat().st_size))
        return gr.update(value=str(path), label=label, visible=True)

    prepare.click(finish, [session, controls.strength, controls.remove_gps], save, **_FILES)


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _looks_part(editor: Editor, session: gr.State, controls: Controls) -> None:
    with gr.Accordion(strings.LOOKS, open=False):
        gr.Markdown(strings.LOOK_EXPLAINED)
        save = gr.Button(strings.LOOK_SAVE, elem_id="look-save")
        files = gr.File(label=strings.LOOK_FILES, file_count="multiple", interactive=False, elem_id="look-files")
        error_line = gr.Markdown()
        load = gr.File(label=strings.LOOK_LOAD, file_types=[".safetensors"], height=120, elem_id="look-load")

    @_told
    def write(now: Session, strength: float) -> tuple[list[str], str]:
        paths, mean, p95 = editor.write_look(*_work_of(now), strength)
        return [str(path) for path in paths], strings.CUBE_ERROR.format(mean=mean, p95=p95)

    @_told
    def apply(now: Session, path: str | None, *numbers: float) -> tuple[Any, ...]:
        if path is None:
            return (gr.skip(),) * len(controls.shown)
        (upload, _), look = _work_of(now), editor.read_look(path)
        asked = (now.model, *numbers[:4], numbers[5])
        return _retouched(
            editor, replace(now, upload=upload, look=look, asked=asked, look_name=Path(path).name), *numbers
        )

    save.click(
        write, [session, controls.strength], [files, error_line], concurrency_id="files", api_visibility="private"
    )
    load.change(apply, [session, load, *controls.asked], controls.shown, **_MODEL)


def _model_part(editor: Editor, session: gr.State, controls: Controls) -> None:
    with gr.Accordion(strings.MODEL, open=False):
        model = gr.Textbox(editor.settings.model, label=strings.MODEL_ID, info=strings.MODEL_INFO, elem_id="model")
        adapter = gr.Textbox(editor.settings.adapter, label=strings.ADAPTER, elem_id="adapter")
        button = gr.Button(strings.MODEL_LOAD, elem_id="model-load")
    line = gr.Markdown(_model_line(editor, editor.models.default), elem_id="model-line", elem_classes="fine-print")

    @_told
    def load(now: Session, *names: str) -> tuple[Session, str]:
        key = (names[0].strip(), names[1].strip())
        editor.models.get(key)
        return replace(now, model=key), _model_line(editor, key)

    loaded = button.click(
        load, [session, model, adapter], [session, line], concurrency_limit=1, api_visibility="private"
    )
    _on_edit(editor, controls, loaded.success)


def _model_line(editor: Editor, key: tuple[str, str]) -> str:
    name = " + ".join(html.escape(part) for part in (key[0] or strings.BUNDLED, key[1]) if part)
    return strings.MODEL_LINE.format(model=name, licence=html.escape(editor.models.licence(key)))


# ---- the other tabs ------------------------------------------------------------------------------------------------


def _variants_tab(editor: Editor, session: gr.State, controls: Controls, tabs: gr.Tabs) -> None:
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

    @_told
    def show(now: Session, number: int, *numbers: float) -> tuple[list[Any], list[int]]:
        (upload, _), (*values, strength, seed) = _work_of(now), numbers
        seeds = [(int(seed or 0) + i) % (MAX_SEED + 1) for i in range(int(number))]
        looks = editor.looks(now.model, upload.view, _by_slider(values), seeds)
        pictures = [str(editor.preview(upload, look, strength)[0]) for look in looks]
        return [(path, strings.VARIANT.format(seed=s)) for path, s in zip(pictures, seeds, strict=True)], seeds

    def choose(seeds: list[int], event: gr.SelectData) -> tuple[int, gr.Tabs]:
        return seeds[event.index], gr.Tabs(selected="retouch")

    go.click(show, [session, count, *controls.asked], [gallery, shown_seeds], **_MODEL)
    _on_edit(editor, controls, gallery.select(choose, shown_seeds, [controls.seed, tabs], **_INSTANT).then)


def _batch_tab(editor: Editor, session: gr.State, controls: Controls) -> None:
    gr.Markdown(strings.BATCH_EXPLAINED.format(count=editor.settings.max_batch_files))
    files = gr.File(label=strings.BATCH_FILES, file_count="multiple", height=180, elem_id="batch-files")
    mode = gr.Radio([strings.BATCH_OWN, strings.BATCH_LOOK], value=strings.BATCH_OWN, label=strings.BATCH_MODE)
    go = gr.Button(strings.BATCH_GO, variant="primary", elem_id="batch-go")
    archive = gr.File(label=strings.BATCH_ZIP, interactive=False, elem_id="batch-zip")
    report = gr.Dataframe(headers=strings.BATCH_COLUMNS, label=strings.BATCH_REPORT, interactive=False, wrap=True)

    @_told
    def run(
        now: Session, paths: list[str] | None, how: str, remove_gps: bool, *numbers: float, progress=_PROGRESS
    ) -> tuple[str, list[list[str]]]:
        allowed = editor.settings.max_batch_files
        if not paths:
            raise Refused(strings.NO_FILES)
        if len(paths) > allowed:
            raise Refused(strings.TOO_MANY_FILES.format(allowed=allowed, given=len(paths)))
        *values, strength, seed = numbers
        look = None
        if how == strings.BATCH_LOOK:
            look = _work_of(now)[1]
        ask = {"model": now.model, "sliders": _by_slider(values), "seed": seed}
        rows = []
        target = editor.new_folder() / "retouched.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as bundle:
            for path in progress.tqdm(paths, desc=strings.PROGRESS_RETOUCH):
                rows.append(_batch_row(editor, bundle, path, strength, remove_gps, look, ask))
            bundle.writestr("report.json", json.dumps(rows, indent=2, ensure_ascii=False))
        done = sum(row["error"] is None for row in rows)
        gr.Info(strings.BATCH_DONE.format(done=done, count=len(rows)))
        return str(target), [[row["file"], row["error"] or row["result"], f"{row['seconds']:.2f}"] for row in rows]

    go.click(
        run,
        [session, files, mode, controls.remove_gps, *controls.asked],
        [archive, report],
        show_progress_on=archive,
        concurrency_id="batch",
        concurrency_limit=1,
        api_visibility="private",
    )


def _batch_row(
    editor: Editor, bundle: zipfile.ZipFile, path: str, strength: float, remove_gps: bool, look: Any, ask: dict
) -> dict[str, Any]:
    """Retouch one photo into the archive; what it says in the report."""
    started, name, error = time.monotonic(), None, None
    try:
        with editor.finished(path, strength, remove_gps, look=look, **ask) as result:
            name = _free_name(result.name, bundle.namelist())
            bundle.write(result, name)
    except Refused as refusal:
        error = str(refusal)
    return {"file": Path(path).name, "result": name, "error": error, "seconds": round(time.monotonic() - started, 3)}


def _free_name(name: str, taken: list[str]) -> str:
    """`name`, with a number where the archive has one of that name already."""
    path, number = Path(name), 2
    while name in taken:
        name, number = f"{path.stem}-{number}{path.suffix}", number + 1
    return name


# ---- for programs --------------------------------------------------------------------------------------------------


def _endpoints(editor: Editor) -> None:
    """Named endpoints without a session; their parts are not on the page."""
    default = editor.models.default

    # Gradio names an endpoint's arguments after the function's.
    @_told
    def retouch(
        photo: str,
        colorfulness: float,
        brightness: float,
        contrast: float,
        temperature: float,
        strength: float,
        seed: int,
        remove_gps: bool,
    ) -> str:
        sliders = _by_slider((colorfulness, brightness, contrast, temperature))
        return str(editor.finish(photo, strength, remove_gps, model=default, sliders=sliders, seed=seed))

    @_told
    def look(
        photo: str, colorfulness: float, brightness: float, contrast: float, temperature: float, seed: int
    ) -> str:
        sliders = _by_slider((colorfulness, brightness, contrast, temperature))
        upload = editor.open(photo, default)
        (found,) = editor.looks(default, upload.view, sliders, [seed])
        return str(editor.save_look(upload, found))

    @_told
    def apply_look(photo: str, look: str, strength: float, remove_gps: bool) -> str:
        return str(editor.finish(photo, strength, remove_gps, look=editor.read_look(look)))

    @_told
    def measure(photo: str) -> dict[str, float]:
        return _by_slider(editor.open(photo, default).scores)

    with gr.Row(visible=False):
        photo, look_file, result = gr.File(label="photo"), gr.File(label="look"), gr.File(label="result")
        values = [gr.Number(0, label=name) for name in ATTRIBUTES]
        strength, seed = gr.Number(1, label="strength"), gr.Number(0, precision=0, label="seed")
        remove_gps, scores = gr.Checkbox(False, label="remove_gps"), gr.JSON(label="scores")
        for function, inputs, output in (
            (retouch, [photo, *values, strength, seed, remove_gps], result),
            (look, [photo, *values, seed], result),
            (apply_look, [photo, look_file, strength, remove_gps], result),
            (measure, [photo], scores),
        ):
            options = {**_FILES, "concurrency_id": "api", "api_visibility": "public"}
            gr.Button(visible=False).click(function, inputs, output, api_name=function.__name__, **options)


# ---- start ---------------------------------------------------------------------------------------------------------

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
        page = build(settings)
    except ValueError as error:
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
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
