"""Photo files in and out: the only place of the package that decodes and encodes them.

    photo = open_photo("holiday.jpg")                    # upright 8 or 16-bit RGB, alpha, profile, EXIF, XMP
    grid = pipe(photo.model_view(), output_type="grid").grids[0]
    save_photo(photo.retouch(grid), "better.tif")        # keeps all of it; never replaces a file unasked

One way in (`opening`): the first bytes choose a reader, the reader gives `Decoded` (samples as they are stored,
metadata as bytes), and an upright RGB `Photo` is made of it. One way out (`saving`): the output's extension chooses a
writer. Each format is one module beside them. A new kind of file is one module and one line in each.

What changes between a file and its `Photo`, everything else being kept bit for bit:

* Orientation is applied to the pixels and reset to 1 in EXIF and XMP, and the size tags in EXIF are made true.
* The EXIF thumbnail goes: it would show the photo as it was before the retouch.
* Grey becomes three equal channels. A grey ICC profile becomes an RGB profile with the same tone curve.
* CMYK becomes sRGB, through the embedded profile where there is a sound one, and then has no profile.
* Colours stored premultiplied by alpha are divided by it, because a retouch needs the true colour.
* A profile of another colour space than the pixels', or one without a profile's signature, is dropped, and so is an
  EXIF block whose main directory cannot be read.
* Adobe RGB and wide-gamut colours that a file states by a number get the profile that says so everywhere.
* Camera RAW is rendered neutrally as 16-bit Display P3; its maker's note goes.
"""

from .core import MAX_PIXELS, PhotoError
from .opening import OPENED_SUFFIXES, open_photo
from .photo import Photo
from .saving import SAVED_SUFFIXES, save_photo, saved_suffix

__all__ = [
    "MAX_PIXELS",
    "OPENED_SUFFIXES",
    "SAVED_SUFFIXES",
    "Photo",
    "PhotoError",
    "open_photo",
    "save_photo",
    "saved_suffix",
]
