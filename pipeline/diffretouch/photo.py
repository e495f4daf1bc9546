"""Photo files in and out: the only place of the package that decodes and encodes them.

    photo = open_photo("holiday.jpg")                    # upright 8 or 16-bit RGB, alpha, profile, EXIF, XMP
    save_photo(photo.with_pixels(better), "better.tif")  # keeps all of it; never replaces a file unasked

One way in: the first bytes choose a reader, the reader gives `_Decoded` (samples as they are stored, metadata as
bytes), and `_finished` makes an upright RGB `Photo` of it. One way out: the output's extension chooses a writer. A new
kind of file is one more line in `_reader_for` or `_WRITERS` and one function.

What changes between a file and its `Photo`, everything else being kept bit for bit:

* Orientation is applied to the pixels and reset to 1 in EXIF and XMP, and the size tags in EXIF are made true.
* The EXIF thumbnail goes: it would show the photo as it was before the retouch.
* Grey becomes three equal channels. A grey ICC profile becomes an RGB profile with the same tone curve.
* CMYK becomes sRGB, through the embedded profile where there is a sound one, and then has no profile.
* Colours stored premultiplied by alpha (TIFF only) are divided by it, because a retouch needs the true colour.
* A profile of another colour space than the pixels', or one without a profile's signature, is dropped, and so is an
  EXIF block whose main directory cannot be read.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, NamedTuple

import imagecodecs
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

__all__ = ["MAX_PIXELS", "Photo", "PhotoError", "open_photo", "save_photo"]

MAX_PIXELS = 400_000_000
"""Largest photo `open_photo` decodes unless told otherwise: four times 100 MP, 1.2 GB of 8-bit RGB."""

# What tifffile logs about a bad file comes as a PhotoError; without a handler it would be printed as well.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ROWS = 256  # rows worked on at once, so that wider intermediate types stay small
_MAX_METADATA = 1 << 26  # bytes of one tag or one inflated chunk; real ones are below 10 MB


class PhotoError(ValueError):
    """A photo file that cannot be opened or saved: one sentence that names the file and the reason."""


class _Refused(Exception):
    """Why a file cannot be used, told by code that does not know the file's name."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo, upright, with what its file said about it.

    Attributes:
        pixels: `(H, W, 3)` uint8 or uint16, RGB in the colour space of `icc_profile`.
        alpha: `(H, W)` of the same dtype, not premultiplied, 0 is transparent; None when opaque.
        icc_profile: an RGB profile; None means sRGB.
        exif: a TIFF-structured block that starts with its byte order mark, its orientation being 1.
        xmp: an XMP packet.
        dpi: horizontal and vertical pixels per inch.
        format: `"JPEG"`, `"PNG"`, `"WEBP"` or `"TIFF"`, told by the file's content; None when not from a file.
        grey: the file held one grey channel.

    Raises:
        TypeError: pixels or alpha that are no NumPy array of dtype uint8 or uint16.
        ValueError: pixels or alpha of another shape, or an empty picture.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"`pixels` has to be a NumPy array of uint8 or uint16, got {_kind_of(pixels)}")
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"`pixels` has to have the shape (height, width, 3), got {pixels.shape}")
        if alpha is None:
            return
        if not isinstance(alpha, np.ndarray) or alpha.dtype != pixels.dtype:
            raise TypeError(f"`alpha` has to be a NumPy array of {pixels.dtype}, got {_kind_of(alpha)}")
        if alpha.shape != pixels.shape[:2]:
            raise ValueError(f"`alpha` has to have the shape {pixels.shape[:2]}, got {alpha.shape}")

    def with_pixels(self, pixels: np.ndarray) -> Photo:
        """The same photo with other pixels of the same shape and dtype; everything else is shared, not copied.

        Raises:
            TypeError: another dtype than this photo's, or no NumPy array.
            ValueError: another shape than this photo's.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != self.pixels.dtype:
            raise TypeError(f"`pixels` has to be a NumPy array of {self.pixels.dtype}, got {_kind_of(pixels)}")
        if pixels.shape != self.pixels.shape:
            raise ValueError(f"`pixels` has to have the shape {self.pixels.shape}, got {pixels.shape}")
        return replace(self, pixels=pixels)


def _kind_of(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


# --------------------------------------------------------------------------------------------------------- opening


def open_photo(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a JPEG, PNG, WebP or TIFF file (8 or 16 bit) into an upright `Photo`.

    The content decides the format, not the name. Grey, palette, 1-bit, CMYK and alpha are handled as the module's
    text says; a multi-picture JPEG opens its first picture, a TIFF its only full-size page. The size is read from the
    header and checked before anything is decoded. TIFF samples of 2 to 15 bits are stretched to 8 or 16.

    Args:
        path: the file.
        max_pixels: a photo with more pixels (width times height) is refused, undecoded.

    Raises:
        PhotoError: the file is missing, no regular file, not readable, empty, cut short, damaged, of another kind,
            animated or of several pages, too large, or has floating-point, signed or 32-bit samples.
    """
    name = os.fspath(path)
    try:
        with _opened_for_reading(name) as file:
            return _decoded_photo(file, max_pixels)
    except _Refused as refusal:
        raise PhotoError(f"cannot open {name}: {refusal}") from None
    except OSError as error:
        raise PhotoError(f"cannot open {name}: {_one_line(error.strerror or error)}") from error


def _opened_for_reading(name: str) -> BinaryIO:
    mode = os.stat(name).st_mode
    if stat.S_ISDIR(mode):
        raise _Refused("it is a folder")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise _Refused("it is not a regular file")
    return open(name, "rb")


def _decoded_photo(file: BinaryIO, max_pixels: int) -> Photo:
    start = file.read(32)
    file.seek(0)
    kind, read = _reader_for(start)
    try:
        return _finished(read(file, max_pixels), kind)
    except _Refused:
        raise
    except MemoryError:
        raise _Refused("there is not enough memory to decode it") from None
    except Exception as error:  # four decoders, each with its own families of exceptions for bad content
        raise _Refused(f"it is damaged or cut short ({_one_line(error)})") from error


def _reader_for(start: bytes) -> tuple[str, Callable[[BinaryIO, int], _Decoded]]:
    if not start:
        raise _Refused("it is empty")
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG", _read_jpeg
    if start.startswith(_PNG_SIGNATURE):
        return "PNG", _read_png
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP", _read_webp
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and start[8:10] != b"CR":
        return "TIFF", _read_tiff
    for signature, at, other in _OTHER_KINDS:
        if start.startswith(signature, at):
            raise _Refused(f"it is a {other} file; JPEG, PNG, WebP and TIFF can be opened")
    raise _Refused("it is not a JPEG, PNG, WebP or TIFF file")


_OTHER_KINDS = (
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"8BPS", 0, "Photoshop"),
    (b"ftyp", 4, "HEIC, AVIF or video"),
    (b"CR", 8, "camera RAW"),
)


class _Decoded(NamedTuple):
    """What a reader found: samples as stored, `(H, W)` for grey or `(H, W, channels)`, and untouched metadata."""

    samples: np.ndarray
    space: str  # "GRAY" | "RGB " | "CMYK", as ICC profiles name them
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def _finished(decoded: _Decoded, kind: str) -> Photo:
    pixels, icc_profile = _as_rgb(decoded)
    height, width = decoded.samples.shape[:2]
    orientation, exif = _upright_exif(decoded.exif, width, height)
    turned = orientation >= 5
    return Photo(
        pixels=_upright(pixels, orientation),
        alpha=None if decoded.alpha is None else _upright(decoded.alpha, orientation),
        icc_profile=icc_profile,
        exif=exif,
        xmp=decoded.xmp if orientation == 1 else _upright_xmp(decoded.xmp),
        dpi=decoded.dpi[::-1] if turned and decoded.dpi else decoded.dpi,
        format=kind,
        grey=decoded.space == "GRAY",
    )


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored samples the way EXIF orientation 1 to 8 asks for; the result is contiguous."""
    turned = samples.swapaxes(0, 1) if orientation >= 5 else samples
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _Refused(f"its header gives a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise _Refused(f"it has {width} x {height} pixels, more than the {max_pixels:,} allowed")


def _check_frames(frames: int, what: str) -> None:
    if frames > 1:
        raise _Refused(f"it has {frames} {what}, and only single pictures can be opened")


def _one_line(message: object) -> str:
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def _sane_dpi(horizontal: float, vertical: float) -> tuple[float, float] | None:
    return (horizontal, vertical) if 1 <= horizontal <= 100_000 and 1 <= vertical <= 100_000 else None


# ------------------------------------------------------------------------------------------------------------ JPEG


def _read_jpeg(file: BinaryIO, max_pixels: int) -> _Decoded:
    # The plugin's own class: `Image.open` would apply its own size limits and give multi-picture files other classes.
    picture = JpegImageFile(file)
    _check_size(picture.width, picture.height, max_pixels)
    picture.load()
    info = picture.info
    return _Decoded(
        _array_of(picture),
        {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}[picture.mode],
        icc_profile=info.get("icc_profile"),
        exif=_without_exif_mark(info.get("exif")),
        xmp=info.get("xmp"),
        dpi=_sane_dpi(*map(float, info["dpi"])) if "dpi" in info else None,
    )


def _array_of(picture: Image.Image) -> np.ndarray:
    """Pillow's picture as an array, in bands: one whole conversion would need twice the picture beside it."""
    shape = (picture.height, picture.width, len(picture.getbands()))
    samples = np.empty(shape if shape[2] > 1 else shape[:2], dtype=np.uint8)
    for top in range(0, picture.height, _ROWS):
        bottom = min(top + _ROWS, picture.height)
        samples[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)))
    return samples


def _without_exif_mark(block: bytes | None) -> bytes | None:
    return block.removeprefix(b"Exif\0\0") if block else None


# ------------------------------------------------------------------------------------------------------------- PNG

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_LENGTH = 33  # signature and IHDR chunk, which is always first
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_METRES_PER_INCH = 0.0254


def _read_png(file: BinaryIO, max_pixels: int) -> _Decoded:
    header = file.read(_PNG_HEADER_LENGTH)
    width, height = struct.unpack_from(">II", header, 16)
    _check_size(width, height, max_pixels)
    picture, chunks = _png_parts(header + file.read())
    if b"acTL" in chunks:
        _check_frames(struct.unpack_from(">I", chunks[b"acTL"])[0], "frames")
    samples, alpha = _split_alpha(imagecodecs.png_decode(picture))  # Pillow would give 16-bit RGB as 8 bit
    return _Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=_png_icc_profile(chunks.get(b"iCCP")),
        exif=_without_exif_mark(chunks.get(b"eXIf")),
        xmp=_png_xmp(chunks.get(_XMP_KEYWORD)),
        dpi=_png_dpi(chunks.get(b"pHYs")),
    )


def _png_parts(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The chunks that make up the pixels, as a file, and the content of those that describe them, XMP by its keyword.

    They are parted because the decoder prints its opinion of doubtful profiles and the like on the terminal.
    """
    picture, described = [_PNG_SIGNATURE], {}
    at = len(_PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            picture.append(data[at:end])
        elif kind in (b"acTL", b"iCCP", b"eXIf", b"pHYs"):
            described[kind] = data[at + 8 : end - 4]
        elif kind == b"iTXt" and data.startswith(_XMP_KEYWORD + b"\0", at + 8):
            described[_XMP_KEYWORD] = data[at + 8 : end - 4]
        at = end
    return b"".join(picture), described


def _png_icc_profile(chunk: bytes | None) -> bytes | None:
    if chunk is None:
        return None
    return _inflated(chunk.partition(b"\0")[2][1:])


def _png_xmp(chunk: bytes | None) -> bytes | None:
    if chunk is None:
        return None
    content = chunk[len(_XMP_KEYWORD) + 1 :]
    text = content[2:].split(b"\0", 2)[-1]
    return _inflated(text) if content[:1] == b"\1" else text


def _png_dpi(chunk: bytes | None) -> tuple[float, float] | None:
    if chunk is None or len(chunk) != 9 or chunk[8] != 1:
        return None
    horizontal, vertical = struct.unpack_from(">II", chunk)
    return _sane_dpi(horizontal * _METRES_PER_INCH, vertical * _METRES_PER_INCH)


def _inflated(data: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MAX_METADATA)
    except zlib.error:
        return None
    return content if inflater.eof else None


def _split_alpha(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour `(H, W)` or `(H, W, 3)` and alpha `(H, W)` of grey, grey + alpha, RGB or RGBA samples."""
    if samples.ndim == 2 or samples.shape[2] == 3:
        return samples, None
    colour = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    return np.ascontiguousarray(colour), np.ascontiguousarray(samples[..., -1])


# ------------------------------------------------------------------------------------------------------------ WebP


def _read_webp(file: BinaryIO, max_pixels: int) -> _Decoded:
    _check_size(*_webp_size(file.read(32)), max_pixels)
    file.seek(0)
    data = file.read()
    chunks = list(_webp_chunks(data))
    _check_frames(sum(kind == b"ANMF" for kind, _ in chunks), "frames")
    metadata = {kind: content for kind, content in chunks if content}
    samples, alpha = _split_alpha(imagecodecs.webp_decode(data))
    return _Decoded(
        samples,
        "RGB ",
        alpha,
        icc_profile=metadata.get(b"ICCP"),
        exif=_without_exif_mark(metadata.get(b"EXIF")),
        xmp=metadata.get(b"XMP "),
    )


def _webp_size(start: bytes) -> tuple[int, int]:
    """Width and height out of a WebP file's first 32 bytes, for each of the three kinds of first chunk."""
    kind = start[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _Refused("it is a WebP file without a picture")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name of every chunk, with its content if it holds metadata."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        wanted = kind in (b"ICCP", b"EXIF", b"XMP ")
        yield kind, data[at + 8 : at + 8 + length] if wanted else b""
        at += 8 + length + length % 2


# ------------------------------------------------------------------------------------------------------------ TIFF

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOUR_CHANNELS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3}
_JPEG_COMPRESSION = 7
_PREMULTIPLIED = 1

_XMP_TAG, _ICC_TAG = 700, 34675
_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274
_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG, _RESOLUTION_UNIT_TAG = 282, 283, 296
_EXIF_TAG, _GPS_TAG, _INTEROPERABILITY_TAG = 34665, 34853, 40965
_EXIF_WIDTH_TAG, _EXIF_HEIGHT_TAG = 40962, 40963
_THUMBNAIL_TAG, _THUMBNAIL_LENGTH_TAG = 513, 514

# The tags of a TIFF's main directory that speak of the photo, not of how this file stores it: description, make,
# model, orientation, software, date, artist, computer, ratings, copyright, the five of Windows, and EXIF and GPS.
_PHOTO_TAGS = frozenset(
    (270, 271, 272, _ORIENTATION_TAG, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
) | {_EXIF_TAG, _GPS_TAG}


def _read_tiff(file: BinaryIO, max_pixels: int) -> _Decoded:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = _only_page(tiff)
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_tiff_kind(page)
        stored = page.asarray(squeeze=False)  # (planes, depth, H, W, channels), channels are planes or channels
        colormap = page.colormap
        structure = _TagReader(file)
        tags = structure.directory(page.offset, _CHILDREN).tags
    separate = stored.shape[0] > 1
    samples = np.ascontiguousarray(np.moveaxis(stored[:, 0, :, :, 0], 0, -1)) if separate else stored[0, 0]
    colour, alpha = _tiff_colour(samples, page, colormap)
    return _Decoded(
        colour,
        {1: "GRAY", 3: "RGB ", 4: "CMYK"}[1 if colour.ndim == 2 else colour.shape[2]],
        alpha,
        icc_profile=tags[_ICC_TAG].data if _ICC_TAG in tags else None,
        exif=_exif_block(tags, structure.order),
        xmp=tags[_XMP_TAG].data if _XMP_TAG in tags else None,
        dpi=_tiff_dpi(tags, structure.order),
    )


def _only_page(tiff: Any) -> Any:
    """The one page that is no thumbnail or other reduced copy."""
    pages = [page for page in tiff.pages if not page.is_reduced]
    if not pages:
        raise _Refused("it holds only a reduced picture, as camera RAW files do, which cannot be opened")
    _check_frames(len(pages), "pages")
    return pages[0]


def _check_tiff_kind(page: Any) -> None:
    photometric = int(page.photometric)
    bits, extra = page.bitspersample, len(page.extrasamples)
    if photometric not in _COLOUR_CHANNELS or (photometric == _YCBCR and page.compression != _JPEG_COMPRESSION):
        raise _Refused("its colours are neither grey, RGB, palette nor CMYK")
    if not isinstance(bits, int) or not 1 <= bits <= 16 or int(page.sampleformat) != 1:
        raise _Refused(f"its samples are {_sample_kind(page)}, and only whole numbers of 1 to 16 bits can be opened")
    if photometric == _PALETTE and bits > 8:
        raise _Refused(f"it has a palette of {bits} bits, and only 8 can be opened")
    if page.imagedepth != 1:
        raise _Refused(f"it is a volume of {page.imagedepth} slices")
    if extra > (photometric != _PALETTE) or page.samplesperpixel != _COLOUR_CHANNELS[photometric] + extra:
        raise _Refused(
            f"it has {page.samplesperpixel} channels, and only grey, RGB or CMYK with one alpha can be opened"
        )


def _sample_kind(page: Any) -> str:
    kind = {2: "signed", 3: "floating-point"}.get(int(page.sampleformat), "")
    return f"{kind} numbers of {page.bitspersample} bits".strip()


def _tiff_colour(samples: np.ndarray, page: Any, colormap: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour `(H, W)` or `(H, W, 3 or 4)` and alpha of samples `(H, W, channels)`, both uint8 or uint16."""
    photometric = int(page.photometric)
    channels = _COLOUR_CHANNELS[photometric]
    colour: np.ndarray = samples[..., 0] if channels == 1 else samples[..., :channels]
    if photometric == _PALETTE:
        colour = (colormap >> 8).astype(np.uint8).T[colour.astype(np.uint8)]
    else:
        colour = _full_range(colour, page.bitspersample)
    if photometric == _MIN_IS_WHITE:
        colour = ~colour
    if not page.extrasamples:
        return colour, None
    alpha = np.ascontiguousarray(_full_range(samples[..., -1], page.bitspersample))
    if page.extrasamples[0] == _PREMULTIPLIED:
        colour = _divided_by_alpha(colour, alpha)
    return np.ascontiguousarray(colour), alpha


def _full_range(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of 1 to 16 bits stretched to the whole range of uint8 or uint16."""
    if bits in (8, 16):
        return samples
    dtype = np.uint8 if bits < 8 else np.uint16
    top, full = (1 << bits) - 1, int(np.iinfo(dtype).max)
    stretched = (np.arange(top + 1, dtype=np.uint32) * full + top // 2) // top
    return stretched.astype(dtype)[samples.astype(np.uint16)]


def _divided_by_alpha(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    full = int(np.iinfo(colour.dtype).max)

    def divide(top: int, bottom: int) -> np.ndarray:
        divisor = np.maximum(alpha[top:bottom], 1).astype(np.uint32)
        divisor = divisor if colour.ndim == 2 else divisor[..., None]
        return np.minimum((colour[top:bottom].astype(np.uint32) * full + divisor // 2) // divisor, full)

    return _in_bands(divide, colour.shape, colour.dtype)


def _in_bands(rows: Callable[[int, int], np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of `shape` filled by `rows(top, bottom)` a band at a time, so that wide intermediates stay small."""
    result = np.empty(shape, dtype=dtype)
    for top in range(0, shape[0], _ROWS):
        bottom = min(top + _ROWS, shape[0])
        result[top:bottom] = rows(top, bottom)
    return result


# ------------------------------------------------------------------------------------------ TIFF structure and EXIF

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_LONG8, _IFD8 = 16, 18  # BigTIFF's only; EXIF has no place for them except as pointers
_NUMBER_FORMATS = {_BYTE: "B", _SHORT: "H", _LONG: "I", 13: "I", _LONG8: "Q", _IFD8: "Q"}

_Children = dict[int, Any]
_CHILDREN: _Children = {_EXIF_TAG: {_INTEROPERABILITY_TAG: {}}, _GPS_TAG: {}}


class _Tag(NamedTuple):
    """One tag: type, number of values, their bytes in the block's byte order, where these lie, and a directory."""

    kind: int
    values: int
    data: bytes
    at: int = 0
    children: dict[int, _Tag] | None = None


class _Directory(NamedTuple):
    tags: dict[int, _Tag]
    next_at: int  # where the pointer to the next directory lies
    next: int


class _TagReader:
    """Reads tags out of a TIFF structure: a TIFF or BigTIFF file, or the EXIF block of any other photo.

    A tag that cannot be read is left out. ValueError: the header or a directory cannot be read.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.size = source.seek(0, os.SEEK_END)
        start = self.take(0, 8)
        if start[:2] not in (b"II", b"MM"):
            raise ValueError("EXIF has to start with II or MM")
        self.order = "<" if start[:2] == b"II" else ">"
        version, self.first = struct.unpack(f"{self.order}HI", start[2:])
        self.big = version == 43
        if self.big:
            self.first = self.unpack("Q", 8)[0]

    def take(self, at: int, length: int) -> bytes:
        if at + length > self.size:
            raise ValueError(f"{length} bytes at {at} lie outside of the {self.size} there are")
        self.source.seek(at)
        return self.source.read(length)

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        return struct.unpack(self.order + layout, self.take(at, struct.calcsize(self.order + layout)))

    def directory(self, at: int, children: _Children) -> _Directory:
        """The directory at `at`; `children` names the tags that point to directories, and theirs in turn."""
        count_layout, entry_layout, pointer_layout = ("Q", "HHQ8s", "Q") if self.big else ("H", "HHI4s", "I")
        (count,) = self.unpack(count_layout, at)
        at += struct.calcsize(f"={count_layout}")
        entry_length = struct.calcsize(f"={entry_layout}")
        next_at = at + count * entry_length
        ends_here = next_at + struct.calcsize(f"={pointer_layout}") > self.size  # some writers leave the last zero out
        following = 0 if ends_here else self.unpack(pointer_layout, next_at)[0]
        tags = {}
        for entry_at in range(at, next_at, entry_length):
            code, kind, number, inline = self.unpack(entry_layout, entry_at)
            inline_at = entry_at + entry_length - len(inline)
            try:
                if code in children:
                    tags[code] = self._pointer(_Tag(kind, number, inline), children[code])
                elif kind in _TYPE_SIZES:
                    tags[code] = self._tag(kind, number, inline_at, pointer_layout)
            except ValueError:
                continue
        return _Directory(tags, next_at, following)

    def _tag(self, kind: int, count: int, inline_at: int, pointer_layout: str) -> _Tag:
        length = count * _TYPE_SIZES[kind]
        if length > _MAX_METADATA:
            raise ValueError(f"a tag of {length} bytes")
        inline = length <= struct.calcsize(f"={pointer_layout}")
        at = inline_at if inline else self.unpack(pointer_layout, inline_at)[0]
        return _Tag(kind, count, self.take(at, length), at)

    def _pointer(self, tag: _Tag, children: _Children) -> _Tag:
        at = _number(tag, self.order)
        if at is None:
            raise ValueError("a pointer that is no number")
        return _Tag(_LONG, 1, b"", children=self.directory(at, children).tags)


def _number(tag: _Tag | None, order: str) -> int | None:
    """The first value of a tag of unsigned whole numbers."""
    if tag is None or tag.values < 1 or tag.kind not in _NUMBER_FORMATS:
        return None
    return int(struct.unpack_from(order + _NUMBER_FORMATS[tag.kind], tag.data)[0])


def _directory_bytes(tags: dict[int, _Tag], order: str, at: int) -> bytes:
    """A classic TIFF directory and all it points to, as bytes that belong at the even position `at`."""
    entries, tail = [], bytearray()
    tail_at = at + 2 + 12 * len(tags) + 4
    for code, tag in sorted(tags.items()):
        where = tail_at + len(tail)
        data = tag.data if tag.children is None else _directory_bytes(tag.children, order, where)
        if len(data) > 4 or tag.children is not None:
            tail += data + bytes(len(data) % 2)
            data = struct.pack(f"{order}I", where)
        entries.append(struct.pack(f"{order}HHI4s", code, tag.kind, tag.values, data))
    return struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + bytes(tail)


def _exif_block(tags: dict[int, _Tag], order: str) -> bytes | None:
    """An EXIF block of what a TIFF's main directory says of the photo."""
    photo_tags = {code: tag for code, tag in tags.items() if code in _PHOTO_TAGS}
    if not photo_tags:
        return None
    return _tiff_start(order, 8) + _directory_bytes(photo_tags, order, 8)


def _tiff_start(order: str, first: int) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, first)


def _tiff_dpi(tags: dict[int, _Tag], order: str) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(_number(tags.get(_RESOLUTION_UNIT_TAG), order) or 2)
    resolutions = [tags.get(code) for code in (_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG)]
    values = [struct.unpack(f"{order}II", tag.data) for tag in resolutions if tag and len(tag.data) == 8]
    if per_inch is None or len(values) != 2 or not all(below for _, below in values):
        return None
    (x_above, x_below), (y_above, y_below) = values
    return _sane_dpi(per_inch * x_above / x_below, per_inch * y_above / y_below)


def _upright_exif(block: bytes | None, width: int, height: int) -> tuple[int, bytes | None]:
    """Orientation of a photo stored as `width` x `height`, and its EXIF block as it has to be once that is applied.

    The block is changed in place, because makers' notes hold positions that a rewritten block would break.
    """
    if not block:
        return 1, None
    try:
        reader = _TagReader(io.BytesIO(block))
        main = reader.directory(reader.first, _CHILDREN)
    except ValueError:
        return 1, None
    told = _number(main.tags.get(_ORIENTATION_TAG), reader.order)
    orientation = told if told is not None and 1 <= told <= 8 else 1
    if orientation >= 5:
        width, height = height, width
    changed = bytearray(block)
    exif = main.tags[_EXIF_TAG].children or {} if _EXIF_TAG in main.tags else {}
    true_values = {_ORIENTATION_TAG: 1, _WIDTH_TAG: width, _HEIGHT_TAG: height}
    _set_numbers(changed, main.tags, reader.order, true_values)
    _set_numbers(changed, exif, reader.order, {_EXIF_WIDTH_TAG: width, _EXIF_HEIGHT_TAG: height})
    _drop_thumbnail(changed, reader, main)
    return orientation, bytes(changed)


def _set_numbers(block: bytearray, tags: dict[int, _Tag], order: str, values: dict[int, int]) -> None:
    for code, value in values.items():
        tag = tags.get(code)
        if tag and tag.values == 1 and tag.kind in (_SHORT, _LONG) and value < 1 << 8 * len(tag.data):
            struct.pack_into(order + _NUMBER_FORMATS[tag.kind], block, tag.at, value)


def _drop_thumbnail(block: bytearray, reader: _TagReader, main: _Directory) -> None:
    if not main.next:
        return
    struct.pack_into(f"{reader.order}I", block, main.next_at, 0)
    try:
        tags = reader.directory(main.next, {}).tags
    except ValueError:
        return
    start = _number(tags.get(_THUMBNAIL_TAG), reader.order)
    length = _number(tags.get(_THUMBNAIL_LENGTH_TAG), reader.order)
    if start is None or length is None or block[start : start + 3] != b"\xff\xd8\xff":
        return
    if start + length >= len(block):
        del block[start:]
    else:
        block[start : start + length] = bytes(length)


def _upright_xmp(packet: bytes | None) -> bytes | None:
    if packet is None:
        return None
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[1-8]", rb"\g<1>1", packet)


# ---------------------------------------------------------------------------------------------------------- colour


def _as_rgb(decoded: _Decoded) -> tuple[np.ndarray, bytes | None]:
    """Pixels `(H, W, 3)` of the stored samples' dtype, and the RGB profile that belongs to them."""
    space = _profile_space(decoded.icc_profile)
    profile = decoded.icc_profile if space == "RGB " else None
    if decoded.space == "CMYK":
        return _rgb_of_cmyk(decoded.samples, decoded.icc_profile if space == "CMYK" else None), None
    if decoded.space == "RGB ":
        return decoded.samples, profile
    if decoded.icc_profile and space == "GRAY":
        profile = _rgb_profile_of_grey(decoded.icc_profile)
    pixels = np.empty((*decoded.samples.shape, 3), dtype=decoded.samples.dtype)
    pixels[:] = decoded.samples[..., None]
    return pixels, profile


def _profile_space(profile: bytes | None) -> str | None:
    if profile is None or len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1")


def _rgb_of_cmyk(samples: np.ndarray, profile: bytes | None) -> np.ndarray:
    """sRGB `(H, W, 3)` of ink amounts `(H, W, 4)`, 0 being no ink."""
    if profile is not None:
        try:
            return imagecodecs.cms_transform(
                np.ascontiguousarray(samples),
                profile,
                imagecodecs.cms_profile("srgb"),
                colorspace="cmyk",
                outcolorspace="rgb",
                intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
                flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION,
            )
        except imagecodecs.CmsError:
            pass  # a broken profile says nothing about the inks: do without
    full = int(np.iinfo(samples.dtype).max)

    def mix(top: int, bottom: int) -> np.ndarray:
        light = full - samples[top:bottom].astype(np.uint32)
        return (light[..., :3] * light[..., 3:] + full // 2) // full

    return _in_bands(mix, (*samples.shape[:2], 3), samples.dtype)


def _rgb_profile_of_grey(profile: bytes) -> bytes | None:
    """An RGB profile in which equal channels look as that grey does in a grey profile: its curve, sRGB's primaries.

    None if the grey profile has no tone curve towards XYZ (ICC.1:2010, 8.3.4: monochrome input and display profiles).
    """
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(count)]
    except struct.error:
        return None
    tags = {name: profile[at : at + length] for name, at, length in entries}
    curve = tags.pop(b"kTRC", b"")
    if not curve or profile[20:24] != b"XYZ ":
        return None
    for primary, xyz in _SRGB_PRIMARIES.items():
        tags[primary + b"XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in xyz))
        tags[primary + b"TRC"] = curve
    return _profile_bytes(profile[:128], tags)


# sRGB's primaries adapted to D50, as X, Y and Z
_SRGB_PRIMARIES = {
    b"r": (0.43607, 0.22249, 0.01392),
    b"g": (0.38515, 0.71687, 0.09708),
    b"b": (0.14307, 0.06061, 0.71410),
}


def _profile_bytes(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    body_at = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, body_at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    # size, the class of a display with a matrix and curves, RGB; bytes 84 to 99 are a digest that no longer holds
    start = struct.pack(">I", body_at + len(body)) + header[4:12] + b"mntrRGB " + header[20:84] + bytes(44)
    return start + table + body


# ---------------------------------------------------------------------------------------------------------- saving


def save_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quality: int = 95,
    source: str | os.PathLike[str] | None = None,
) -> None:
    """Encode a photo with its profile, EXIF and XMP; the file appears complete or not at all.

    PNG and TIFF keep 16 bits and alpha; WebP keeps alpha, JPEG and WebP round to 8 bits; JPEG lays a transparent photo
    on white. EXIF or XMP beyond the 64 kB that a JPEG can hold is left out with a warning.

    Args:
        photo: what to write.
        path: the file; its extension (.jpg, .jpeg, .png, .webp, .tif, .tiff) chooses the format.
        overwrite: replace an existing file. A link is replaced itself, what it points to stays.
        quality: 1 to 100, for JPEG and WebP. JPEG keeps full colour resolution from 90 on; WebP is lossless at 100.
        source: a file that is not replaced even with `overwrite`, by whatever name or link: the photo's own.

    Raises:
        PhotoError: an unknown extension, an existing file or the source, a missing or unwritable folder, a full disk,
            or a photo larger than the format allows.
        ValueError: `quality` outside 1 to 100.
    """
    name = os.fspath(path)
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"`quality` has to be a whole number in [1, 100], got {quality!r}")
    try:
        extension = os.path.splitext(name)[1].lower()
        if extension not in _WRITERS:
            raise _Refused(f"the extension has to be one of {', '.join(_WRITERS)}, got {extension or 'none'}")
        if not overwrite and os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if source is not None and _same_file(name, source):
            raise _Refused("it is the photo's own source")
        _write_atomically(name, overwrite, lambda file: _WRITERS[extension](photo, file, quality))
    except FileExistsError:
        raise PhotoError(f"cannot save {name}: it exists already") from None
    except FileNotFoundError as error:
        raise PhotoError(f"cannot save {name}: there is no such folder") from error
    except OSError as error:
        raise PhotoError(f"cannot save {name}: {_one_line(error.strerror or error)}") from error
    except _Refused as refusal:
        raise PhotoError(f"cannot save {name}: {refusal}") from None


def _same_file(one: str, other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _write_atomically(name: str, overwrite: bool, write: Callable[[BinaryIO], None]) -> None:
    # Not tempfile: its files are readable by their owner only, and would stay so once renamed.
    temporary = os.path.join(os.path.dirname(name), f".diffretouch-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            write(file)
        if overwrite:
            os.replace(temporary, name)
        else:
            _move_to_new_name(temporary, name)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _move_to_new_name(temporary: str, name: str) -> None:
    """Rename that fails with FileExistsError, whoever else creates that name in the meantime."""
    try:
        os.link(temporary, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then fill it
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, name)


def _check_sides(photo: Photo, longest: int, kind: str) -> None:
    height, width = photo.pixels.shape[:2]
    if max(width, height) > longest:
        raise _Refused(f"it has {width} x {height} pixels, and {kind} allows at most {longest} on a side")


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return np.ascontiguousarray(pixels) if alpha is None else np.dstack((pixels, alpha))


def _eight_bit(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint8:
        return samples
    # 65535 / 257 is 255 exactly, so this rounds to the nearest of the 256 levels
    return _in_bands(lambda top, bottom: (samples[top:bottom].astype(np.uint32) + 128) // 257, samples.shape, np.uint8)


def _on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """8-bit pixels laid on white, blended in the stored values as picture viewers do."""

    def blend(top: int, bottom: int) -> np.ndarray:
        weight = alpha[top:bottom, :, None].astype(np.uint32)
        return (pixels[top:bottom] * weight + 255 * (255 - weight) + 127) // 255

    return _in_bands(blend, pixels.shape, np.uint8)


def _write_jpeg(photo: Photo, file: BinaryIO, quality: int) -> None:
    _check_sides(photo, 65_500, "JPEG")
    pixels = _eight_bit(photo.pixels)
    if photo.alpha is not None:
        pixels = _on_white(pixels, _eight_bit(photo.alpha))
    options: dict[str, Any] = {"dpi": photo.dpi, "icc_profile": photo.icc_profile}
    options["exif"] = _fitting("EXIF", photo.exif and b"Exif\0\0" + photo.exif, 65_533)
    options["xmp"] = _fitting("XMP", photo.xmp, 65_504)
    options = {name: value for name, value in options.items() if value}
    subsampling = "4:4:4" if quality >= 90 else "4:2:0"
    # To memory first: Pillow's errors on a full disk do not say so.
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        encoded, "JPEG", quality=quality, subsampling=subsampling, **options
    )
    file.write(encoded.getbuffer())


def _fitting(kind: str, block: bytes | None, longest: int) -> bytes | None:
    if block is None or len(block) <= longest:
        return block
    warnings.warn(f"{kind} of {len(block):,} bytes is left out: a JPEG holds at most {longest:,}", stacklevel=5)
    return None


def _write_webp(photo: Photo, file: BinaryIO, quality: int) -> None:
    _check_sides(photo, 16_383, "WebP")
    alpha = None if photo.alpha is None else _eight_bit(photo.alpha)
    options: dict[str, Any] = {"icc_profile": photo.icc_profile, "exif": photo.exif, "xmp": photo.xmp}
    options = {name: value for name, value in options.items() if value}
    options |= {"lossless": True, "exact": True, "quality": 50} if quality == 100 else {"quality": quality}
    encoded = io.BytesIO()
    Image.fromarray(_with_alpha(_eight_bit(photo.pixels), alpha)).save(encoded, "WEBP", **options)
    file.write(encoded.getbuffer())


def _write_png(photo: Photo, file: BinaryIO, quality: int) -> None:
    # Difference to the left neighbour and run lengths: three times faster than the usual search, and photos come out
    # as small, because noise leaves no longer repeats to find.
    encoded = imagecodecs.png_encode(
        _with_alpha(photo.pixels, photo.alpha),
        imagecodecs.PNG.COMPRESSION.SPEED,
        strategy=imagecodecs.PNG.STRATEGY.RLE,
        filter=imagecodecs.PNG.FILTER.SUB,
    )
    file.write(encoded[:_PNG_HEADER_LENGTH])
    if photo.icc_profile:
        file.write(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc_profile)))
    if photo.dpi:
        per_metre = [round(value / _METRES_PER_INCH) for value in photo.dpi]
        file.write(_png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if photo.exif:
        file.write(_png_chunk(b"eXIf", photo.exif))
    if photo.xmp:
        file.write(_png_chunk(b"iTXt", _XMP_KEYWORD + bytes(5) + photo.xmp))
    file.write(memoryview(encoded)[_PNG_HEADER_LENGTH:])


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _write_tiff(photo: Photo, file: BinaryIO, quality: int) -> None:
    import tifffile

    # EXIF's tags are copied as they are, so the whole file takes its byte order.
    order: Literal["<", ">"] = ">" if photo.exif and photo.exif.startswith(b"MM") else "<"
    samples = _with_alpha(photo.pixels, photo.alpha)
    if samples.nbytes > 0xF000_0000:
        raise _Refused("its pixels take more than the 4 GB that TIFF allows")
    tifffile.imwrite(
        file,
        samples,
        photometric="rgb",
        extrasamples=[] if photo.alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        rowsperstrip=max(1, (1 << 20) // samples[0].nbytes),
        byteorder=order,
        bigtiff=False,
        metadata=None,
        software=False,
    )
    _add_tiff_tags(file, order, photo)


def _add_tiff_tags(file: BinaryIO, order: str, photo: Photo) -> None:
    """Write the main directory of a finished TIFF again behind its end, with the photo's metadata in it."""
    reader = _TagReader(file)
    tags = dict(reader.directory(reader.first, {}).tags)
    if photo.exif:
        block = _TagReader(io.BytesIO(photo.exif))
        described = block.directory(block.first, _CHILDREN).tags
        tags |= {code: tag for code, tag in described.items() if code in _PHOTO_TAGS}
    if photo.icc_profile:
        tags[_ICC_TAG] = _Tag(_UNDEFINED, len(photo.icc_profile), photo.icc_profile)
    if photo.xmp:
        tags[_XMP_TAG] = _Tag(_BYTE, len(photo.xmp), photo.xmp)
    if photo.dpi:
        for code, value in zip((_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG), photo.dpi, strict=True):
            tags[code] = _Tag(_RATIONAL, 1, struct.pack(f"{order}II", round(value * 10_000), 10_000))
        tags[_RESOLUTION_UNIT_TAG] = _Tag(_SHORT, 1, struct.pack(f"{order}H", 2))
    end = file.seek(0, os.SEEK_END)
    end += file.write(bytes(end % 2))
    file.write(_directory_bytes(tags, order, end))
    file.seek(0)
    file.write(_tiff_start(order, end))


_WRITERS: dict[str, Callable[[Photo, BinaryIO, int], None]] = {
    ".jpg": _write_jpeg,
    ".jpeg": _write_jpeg,
    ".png": _write_png,
    ".webp": _write_webp,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}
