"""TIFF files: 8 and 16 bits, grey, RGB, palette and CMYK, with alpha; written with deflate."""

from __future__ import annotations

import io
import math
import os
import struct
from typing import Any, BinaryIO, Literal

import imagecodecs
import numpy as np

from .companions import CREDENTIALS_LOST, CREDENTIALS_TAG
from .core import Decoded, Refused, check_frames, check_size, divided_by_alpha, full_range, with_alpha
from .exif import exif_of_tiff
from .iptc import IPTC_TAG, records_of_tiff
from .photo import Photo, stored_samples
from .tags import (
    BYTE,
    CHILDREN,
    ICC_TAG,
    MAP_TAGS,
    PHOTO_TAGS,
    RATIONAL,
    RESOLUTION_UNIT_TAG,
    SHORT,
    UNDEFINED,
    X_RESOLUTION_TAG,
    XMP_TAG,
    Y_RESOLUTION_TAG,
    Tag,
    TagReader,
    directory_bytes,
    resolution,
    tiff_start,
)

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOUR_CHANNELS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3}
_JPEG_COMPRESSION, _FAX = 7, (2, 3, 4)
_MOST_PAGES = 256
_UNSPECIFIED, _PREMULTIPLIED = 0, 1


def read_tiff(file: BinaryIO, max_pixels: int) -> Decoded:
    import tifffile

    structure = TagReader(file)
    places = _pages(structure)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = _only_page(tiff, len(places))
        check_size(page.imagewidth, page.imagelength, max_pixels)
        if page.is_tiled:  # a tile is decoded whole, however little of it is in the picture
            check_size(page.tilewidth, page.tilelength, max_pixels)
        _check_tiff_kind(page)
        # (planes, depth, H, W, channels), channels are planes or channels
        stored = _fax(file, page) if page.compression in _FAX else page.asarray(squeeze=False)
        parts = len(page.dataoffsets)
        missing = math.prod(page.chunked) - parts
        colormap = page.colormap
        tags = structure.directory(page.offset, CHILDREN).tags
    separate = stored.shape[0] > 1
    samples = np.ascontiguousarray(np.moveaxis(stored[:, 0, :, :, 0], 0, -1)) if separate else stored[0, 0]
    colour, alpha = _tiff_colour(samples, page, colormap)
    exif, notes = exif_of_tiff(tags, structure.order)
    return Decoded(
        colour,
        {1: "GRAY", 3: "RGB ", 4: "CMYK"}[1 if colour.ndim == 2 else colour.shape[2]],
        alpha,
        icc_profile=tags[ICC_TAG].data if ICC_TAG in tags else None,
        exif=exif,
        xmp=tags[XMP_TAG].data if XMP_TAG in tags else None,
        dpi=resolution(tags, structure.order),
        iptc=records_of_tiff(tags),
        damage=f"{missing} of {missing + parts} parts of its picture are missing" if missing > 0 else None,
        notes=(*notes, *_left_out(tags, bool(page.extrasamples) and alpha is None)),
    )


def _fax(file: BinaryIO, page: Any) -> np.ndarray:
    """The page's samples as libtiff decodes them: tifffile's way gives up at codes that this reads over."""
    file.seek(0)
    stored = imagecodecs.tiff_decode(file.read(), index=page.index)
    return stored.astype(np.uint8).reshape(page.shaped)


def _left_out(tags: dict[int, Tag], selection: bool) -> tuple[str, ...]:
    notes = ["its fourth channel, which is no transparency, is left out"] if selection else []
    if tags.keys() & MAP_TAGS:
        notes.append("its map coordinates (GeoTIFF, GDAL) are left out")
    if CREDENTIALS_TAG in tags:
        notes.append(CREDENTIALS_LOST)
    return tuple(notes)


def _pages(structure: TagReader) -> list[int]:
    """Where the directories of all pages lie; a chain that comes back to one of them ends there."""
    places: list[int] = []
    at = structure.first
    while at and at not in places:
        if len(places) == _MOST_PAGES:
            raise Refused(f"it has more than {_MOST_PAGES} pages, and only single pictures can be opened")
        places.append(at)
        at = structure.next_directory(at)
    return places


def _only_page(tiff: Any, count: int) -> Any:
    """The one page of `count` that is no thumbnail or other reduced copy."""
    pages = [page for page in map(tiff.pages.__getitem__, range(count)) if not page.is_reduced]
    if not pages:
        raise Refused("it holds only a reduced picture, as camera RAW files do, which cannot be opened")
    check_frames(len(pages), "pages")
    return pages[0]


def _check_tiff_kind(page: Any) -> None:
    photometric = int(page.photometric)
    bits, extra = page.bitspersample, len(page.extrasamples)
    if photometric not in _COLOUR_CHANNELS or (photometric == _YCBCR and page.compression != _JPEG_COMPRESSION):
        raise Refused("its colours are neither grey, RGB, palette nor CMYK")
    if not isinstance(bits, int) or not 1 <= bits <= 16 or int(page.sampleformat) != 1:
        raise Refused(f"its samples are {_sample_kind(page)}, and only whole numbers of 1 to 16 bits can be opened")
    if photometric == _PALETTE and bits > 8:
        raise Refused(f"it has a palette of {bits} bits, and only 8 can be opened")
    if not isinstance(page.planarconfig, int):  # a tag of another type, which tifffile takes for planes
        raise Refused("it is damaged: it does not say in a known way how its channels lie")
    if page.imagedepth != 1:
        raise Refused(f"it is a volume of {page.imagedepth} slices")
    if extra > (photometric != _PALETTE) or page.samplesperpixel != _COLOUR_CHANNELS[photometric] + extra:
        raise Refused(
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
        colour = full_range(colour, page.bitspersample)
    if photometric == _MIN_IS_WHITE:
        colour = ~colour
    if not page.extrasamples or int(page.extrasamples[0]) == _UNSPECIFIED:
        return np.ascontiguousarray(colour), None
    alpha = np.ascontiguousarray(full_range(samples[..., -1], page.bitspersample))
    if page.extrasamples[0] == _PREMULTIPLIED:
        colour = divided_by_alpha(colour, alpha)
    return np.ascontiguousarray(colour), alpha


def write_tiff(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    import tifffile

    # EXIF's tags are copied as they are, so the whole file takes its byte order.
    order: Literal["<", ">"] = ">" if photo.exif and photo.exif.startswith(b"MM") else "<"
    colour, profile = stored_samples(photo)
    samples = with_alpha(colour, photo.alpha)
    if samples.nbytes > 0xF000_0000:
        raise Refused("its pixels take more than the 4 GB that TIFF allows")
    tifffile.imwrite(
        file,
        samples,
        photometric="rgb" if samples.ndim == 3 else "minisblack",
        extrasamples=[] if photo.alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        rowsperstrip=max(1, (1 << 20) // samples[0].nbytes),
        byteorder=order,
        bigtiff=False,
        metadata=None,
        software=False,
        align=len(photo.exif or b"") // 2 * 2 + 16,
    )
    _add_tiff_tags(file, order, photo, profile)
    return []


def _add_tiff_tags(file: BinaryIO, order: str, photo: Photo, profile: bytes | None) -> None:
    """Write the main directory of a finished TIFF again behind its end, with the photo's metadata in it.

    The EXIF block goes as it is to the file's beginning, so that the positions in it, also in its maker's note, stay
    right; the file's first directory has become free, and room was left behind it.
    """
    reader = TagReader(file)
    tags = dict(reader.directory(reader.first, {}).tags)
    if photo.exif:
        block = TagReader(io.BytesIO(photo.exif))
        readable = PHOTO_TAGS & block.directory(block.first, CHILDREN).tags.keys()
        tags |= {code: tag for code, tag in block.directory(block.first, {}).tags.items() if code in readable}
        file.seek(0)
        file.write(photo.exif)
    if profile:
        tags[ICC_TAG] = Tag(UNDEFINED, len(profile), profile)
    if photo.iptc:
        padded = photo.iptc + bytes(-len(photo.iptc) % 4)
        tags[IPTC_TAG] = Tag(UNDEFINED, len(padded), padded)
    if photo.xmp:
        tags[XMP_TAG] = Tag(BYTE, len(photo.xmp), photo.xmp)
    if photo.dpi:
        for code, value in zip((X_RESOLUTION_TAG, Y_RESOLUTION_TAG), photo.dpi, strict=True):
            tags[code] = Tag(RATIONAL, 1, struct.pack(f"{order}II", round(value * 10_000), 10_000))
        tags[RESOLUTION_UNIT_TAG] = Tag(SHORT, 1, struct.pack(f"{order}H", 2))
    end = file.seek(0, os.SEEK_END)
    end += file.write(bytes(end % 2))
    file.write(directory_bytes(tags, order, end))
    file.seek(0)
    file.write(tiff_start(order, end))
