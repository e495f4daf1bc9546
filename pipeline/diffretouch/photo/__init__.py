"""Photo files in and out: the only place of the package that decodes and encodes them.

    photo = open_photo("holiday.jpg")                    # upright 8 or 16-bit RGB, alpha, profile, EXIF, XMP
    grid = pipe(photo.model_view(), output_type="grid").grids[0]
    save_photo(photo.retouch(grid), "better.tif")        # keeps all of it; never replaces a file unasked

One way in (`opening`): the first bytes choose a reader (`readers`), the reader gives `Decoded` (samples as they are
stored, metadata as bytes), in a process of its own where its decoder may hang or crash (`isolation`), and an upright
RGB `Photo` is made of it. One way out (`saving`): the output's extension chooses a writer. Each format is one module
beside them. A new kind of file is one module and one line in `readers` and `saving`.

What changes between a file and its `Photo`, everything else being kept bit for bit:

* Orientation is applied to the pixels and reset to 1 in EXIF and XMP, and the size tags in EXIF are made true.
* Thumbnails and previews go, from EXIF, makers' notes and XMP: they show the photo as it was before the retouch.
* XMP's claims to what is left out go with it: videos of motion photos, gain maps, depth maps, content credentials. So
  do the settings that a RAW developer would apply once more. Regions turn with the pixels.
* What is left out or damaged is told by `Photo.notes`. Signed again (`credentials`), a file's credentials go on.
* Grey becomes three equal channels. A grey ICC profile becomes an RGB profile with the same tone curve. Saved again,
  a grey file has one channel as long as its pixels are neutral.
* Colours by a profile of tables become Display P3. Colours that a PNG states by cICP, cHRM and gAMA get a profile.
* CMYK becomes sRGB, through the embedded profile where there is a sound one, and then has no profile.
* Colours stored premultiplied by alpha are divided by it, because a retouch needs the true colour.
* A profile of another colour space than the pixels', or one without a profile's signature, is dropped, and so is an
  EXIF block whose main directory cannot be read.
* Adobe RGB and wide-gamut colours that a file states by a number get the profile that says so everywhere.
* Camera RAW is rendered neutrally as 16-bit Display P3; its maker's note goes.
"""

from .companions import CREDENTIALS_LOST
from .core import MAX_PIXELS, PhotoError
from .credentials import CREDENTIALS_KEPT, Signer
from .opening import open_photo
from .photo import Photo
from .saving import SAVED_SUFFIXES, save_photo, saved_suffix, was_retouched
from .suffixes import OPENED_SUFFIXES, RAW_SUFFIXES, RENDERED_SUFFIXES, SKIPPED_SUFFIXES

__all__ = [
    "CREDENTIALS_KEPT",
    "CREDENTIALS_LOST",
    "MAX_PIXELS",
    "OPENED_SUFFIXES",
    "RAW_SUFFIXES",
    "RENDERED_SUFFIXES",
    "SAVED_SUFFIXES",
    "SKIPPED_SUFFIXES",
    "Photo",
    "PhotoError",
    "Signer",
    "open_photo",
    "save_photo",
    "saved_suffix",
    "was_retouched",
]
