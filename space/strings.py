"""Every sentence of the page: a translation is a copy of this file."""

TITLE = "DiffRetouch"
TAGLINE = "Expert-quality photo retouching, steered by four sliders. Your photo keeps its size, depth and texture."

TAB_RETOUCH = "Retouch"
TAB_VARIANTS = "Variants"
TAB_BATCH = "Batch"
TAB_STYLE = "My style"
TAB_ABOUT = "About and API"

UPLOAD = "Photo"
EXAMPLES = "Or try one of these"
COMPARE = "Before | after"
ALT_BEFORE = "Your photo before the retouch"
ALT_AFTER = "Your photo after the retouch"
ALT_EXAMPLE = "Example photo: {name}"
COMPARE_EMPTY = "Drop a photo above, or pick an example: before and after appear here."

SLIDERS = {
    "colorfulness": ("Colour", "muted to vivid"),
    "brightness": ("Brightness", "dark to bright"),
    "contrast": ("Contrast", "soft to crisp"),
    "temperature": ("Warmth", "cool to warm"),
}
STRENGTH = ("Strength", "0 is your photo, 1 the full retouch, 2 exaggerates it")
PRESET = "Preset"
CUSTOM_PRESET = "Custom"
SEED = "Style (seed, 0 = the middle)"
DICE = "Other style"
LOCK = "Keep this style for the next photo"
SURPRISE = "Surprise me"
RESET = "Reset sliders"

MEASURED = "What changed"
MEASURED_EMPTY = "The measured colour, brightness, contrast and warmth appear here, before and after."
BEFORE = "before"
AFTER = "after"

PREPARE = "Make the full-quality file"
SAVE = "Save {name} ({size})"
SAVE_EMPTY = "Full-quality file"
DOWNLOAD_NOTE = "Same size, bit depth, EXIF and colour profile as your file. Your browser puts it into its downloads."
REMOVE_GPS = "Remove the place (GPS) from the file"

MATCH = "Make it look like this"
MATCH_EXPLAINED = (
    "Drop a photo that you like: the sliders and the style are set so that your photo's tones and colours come as "
    "near to it as an expert would go."
)
MATCH_FILE = "A photo you like"
MATCH_GO = "Set the sliders like this photo"

LOOKS = "Looks: keep this retouch, or use another photo's"
LOOK_EXPLAINED = (
    "A look is this photo's retouch as a file. Apply it to other photos here or with `diffretouch retouch --look`; "
    "the .cube is its best approximation for other programs."
)
LOOK_SAVE = "Make look files"
LOOK_FILES = "Look files"
LOOK_LOAD = "Apply a look file (.safetensors)"
LOOK_ACTIVE = "This photo is shown with the look **{name}**. Move a slider to return to the model's own retouch."
CUBE_ERROR = (
    "The .cube differs from the retouch by {mean:.2f} Delta E 2000 on average, {p95:.2f} at the 95th percentile."
)

MODEL = "Model"
BUNDLED = "the bundled DiffRetouch model"
MODEL_ID = "Hub id or folder"
MODEL_INFO = "Empty is the bundled model. Code that comes with a model is never run."
ADAPTER = "LoRA adapter (Hub id or folder), or empty"
MODEL_LOAD = "Load"
MODEL_LINE = "Model: **{model}** · Licence: **{licence}**"

VARIANTS_EXPLAINED = "The same photo and sliders, other experts. Click one to go on from it."
VARIANTS_COUNT = "How many"
VARIANTS_GO = "Show styles"
VARIANTS = "Expert styles"
VARIANT = "style {seed}"

BATCH_EXPLAINED = "Many photos at once, up to {count} files."
BATCH_FILES = "Photos"
BATCH_MODE = "Retouch each with"
BATCH_OWN = "its own retouch, sliders as in the editor"
BATCH_LOOK = "the look of the photo in the editor"
BATCH_STYLE = "the look found in My style"
BATCH_AGAIN = "Also photos that were retouched here before"
BATCH_GO = "Retouch all"
BATCH_ZIP = "Retouched photos (zip)"
BATCH_REPORT = "Report"
BATCH_COLUMNS = ["file", "result", "seconds"]
BATCH_DONE = "{done} of {count} photos retouched."

STYLE_EXPLAINED = (
    "Show what you do to photos: drop some as they were, and the same ones as you edited them. Names pair them "
    "(`IMG_1.CR3` and `IMG_1-edit.jpg`); one pair is enough to begin with, five to twenty are better."
)
STYLE_BEFORE = "Before"
STYLE_AFTER = "After"
STYLE_GO = "Find my style"
STYLE_ERROR = (
    "**Your edit changes colours by {edit:.1f} Delta E 2000; the look comes within {mean:.1f} of it** on pixels that "
    "were held back (95% of them within {p95:.1f}), found from {count} of your pairs. About 1 is just visible."
)
STYLE_FIXED = "Your edit treats photos alike: only {missed:.0f}% of it is more than one look can hold."
STYLE_ADAPTS = (
    "**Your edit is no fixed look:** {missed:.0f}% of it depends on the photo or on the place in it. The look below "
    "is its average; at the end stand the lines that train a style which adapts."
)
STYLE_PICTURES = "Your pairs"
STYLE_CAPTIONS = ("before", "your edit", "the look")
STYLE_PAIRS = "Pairs"
STYLE_COLUMNS = ["pair", "what became of it"]
PAIR_USED = "used"
PAIR_LEFT_OUT = "left out: {why}"
PAIR_ALONE = "left out: it has no partner of its name"
STYLE_FILES = "The look: .safetensors for DiffRetouch, .cube for others"
STYLE_USE = "Apply it to a batch"
STYLE_TRAIN = "Train a style that adapts to each photo"
STYLE_TRAIN_EXPLAINED = (
    "From 30 or more pairs, on your own machine, in folders `before` and `after`, with the repository beside you:"
)
STYLE_TRAIN_LINES = (
    "diffretouch dataset pairs before after -o my-style/data\n"
    "python train_lora/train_lora.py --recipe my_style dataset=my-style/data\n"
    "diffretouch retouch photo.jpg -o better.jpg --lora runs/my-style/final"
)

PROGRESS_RETOUCH = "Retouching"

NO_PHOTO = "There is no photo yet: drop one into the Retouch tab first."
NO_EXAMPLE = "There is no photo to come near to yet: drop one into the field first."
NO_PAIRS = "There are no pairs yet: drop photos into both lists first, before and after."
TOO_MANY_PAIRS = "A style is found from up to {allowed} pairs here, got {given} files in a list."
NO_PARTNERS = "No photo has an edited version of its name: call them alike, as IMG_1.CR3 and IMG_1-edit.jpg."
NO_STYLE = "There is no look yet: find one in the tab My style first."
RETOUCHED_ALREADY = "{name} is left out: DiffRetouch has retouched it already."
NO_FILES = "There are no photos yet: drop some into the list first."
EXPIRED = "This photo was deleted after {minutes:g} minutes without use: please upload it again."
TOO_MANY_FILES = "A batch takes up to {allowed} files, got {given}."
TOO_MANY_REQUESTS = (
    "A visitor may ask for {allowed} things in a minute, and you have: please go on in {seconds} seconds."
)
BAD_SEED = "`seed` has to be an integer in [0, {most}], got {seed}."
BAD_NUMBER = "`{name}` has to be a number in [{low:g}, {high:g}], got {value}."
BAD_SWITCH = "`{name}` has to be true or false, got {value}."
NO_FILE = "`{name}` has to be a file, got none."
NO_FOLDERS = "A model has to be named by its Hub id here (OWNER/NAME), got {model}."

ARGUMENTS = {
    "photo": "JPEG, PNG, WebP, TIFF, AVIF, HEIC, JPEG XL or camera RAW file",
    "look": "a look file, as /look returns it (.safetensors)",
    "example": "a photo whose tones and colours are liked, of the same kinds of file",
    "colorfulness": "muted (-1) to vivid (1), in [-1.5, 1.5]; 0 asks for nothing in particular",
    "brightness": "dark (-1) to bright (1), in [-1.5, 1.5]; 0 asks for nothing in particular",
    "contrast": "soft (-1) to crisp (1), in [-1.5, 1.5]; 0 asks for nothing in particular",
    "temperature": "cool (-1) to warm (1), in [-1.5, 1.5]; 0 asks for nothing in particular",
    "strength": "of the retouch, in [0, 2]: 0 is the photo itself, 1 the full retouch",
    "seed": "of the style, an integer in [0, 4294967295]; 0 is the middle of the styles",
    "remove_gps": "true leaves out of the file where the photo was taken",
}

ABOUT = """
### How it works
A small diffusion model imagines the retouched photo and describes the change as a grid of colour transforms. The grid
is applied to your original pixels, so nothing is redrawn: texture and lettering stay as they are. Another seed is
another expert's taste; 0 is the middle between them.

Sliders ask for more or less than the expert would choose by themselves; 0 asks for nothing in particular.
Double-click a slider to set it back. Photos and results are deleted after {minutes:g} minutes; nothing else is stored.

### Use it from a program
```python
from gradio_client import Client, handle_file

client = Client("{url}")
better = client.predict(
    handle_file("IMG_1234.jpg"), colorfulness=0.0, brightness=0.3, contrast=0.0, temperature=-0.5,
    strength=1.0, seed=0, remove_gps=False, api_name="/retouch",
)
```
Endpoints: `/retouch` (photo to photo), `/look` (photo to look file), `/apply_look` (photo and look to photo), `/match`
(photo and a photo you like to photo), `/measure` (photo to its four scores). "Use via API" at the foot of the page has
all arguments, also for curl.
"""
