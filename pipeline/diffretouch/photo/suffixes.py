"""File name extensions, in lower case: the one table for folders of photos, data sets and the page.

They only choose files out of folders: what a file is, its content says.
"""

from __future__ import annotations

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")

RENDERED_SUFFIXES = (*JPEG_SUFFIXES, ".heic", ".heif", ".hif", ".avif", ".jxl", ".png", ".webp", ".tif", ".tiff")
"""Of finished pictures; the usual rendering of a camera first, which is preferred among several files of one photo."""

RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw")
    + (".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f")
)
"""Of camera RAW."""

OPENED_SUFFIXES = RAW_SUFFIXES | frozenset(RENDERED_SUFFIXES)
"""Usual extensions of what `open_photo` opens."""

SKIPPED_SUFFIXES = frozenset(
    (".3gp", ".avi", ".bmp", ".exr", ".gif", ".hdr", ".insv", ".jp2", ".m4v", ".mkv", ".mov", ".mp4", ".mts")
    + (".pcx", ".pdf", ".psb", ".psd", ".svg", ".tga", ".webm", ".xcf")
)
"""Of pictures and videos that are not opened: a folder's are counted and named, so that nobody waits for them."""
