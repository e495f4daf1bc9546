"""Grey and CMYK as RGB, and ICC profiles as bytes: read, made and made to fit."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

from .core import Decoded, Refused, in_bands

_TABLES = "its colour profile of tables cannot be kept; the result is in Display P3, which looks the same"


def as_rgb(decoded: Decoded) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Pixels `(H, W, 3)` of the stored samples' dtype, the RGB profile that belongs to them, and what was lost."""
    space = _profile_space(decoded.icc_profile)
    profile = decoded.icc_profile if space == "RGB " else None
    if decoded.space == "CMYK":
        return _rgb_of_cmyk(decoded.samples, decoded.icc_profile if space == "CMYK" else None), None, ()
    if decoded.space == "RGB ":
        if profile is not None and _is_of_tables(profile):
            converted = _rgb_of_tables(decoded.samples, profile)
            if converted is not None:
                return converted, DISPLAY_P3, (_TABLES,)
        return decoded.samples, profile, ()
    if decoded.icc_profile and space == "GRAY":
        profile = _rgb_profile_of_grey(decoded.icc_profile)
    pixels = np.empty((*decoded.samples.shape, 3), dtype=decoded.samples.dtype)
    pixels[:] = decoded.samples[..., None]
    return pixels, profile, ()


def _is_of_tables(profile: bytes) -> bool:
    """Whether an RGB profile says what its colours are by tables alone, as scanners' and JPEG XL's XYB do."""
    try:
        tags = profile_tags(profile)
    except ValueError:
        return False
    return b"rXYZ" not in tags and any(name in tags for name in (b"A2B0", b"A2B1", b"D2B0"))


def _rgb_of_tables(samples: np.ndarray, profile: bytes) -> np.ndarray | None:
    """Display P3 of samples of such a profile; None if littlecms cannot use it."""

    def converted(top: int, bottom: int) -> np.ndarray:
        return imagecodecs.cms_transform(
            np.ascontiguousarray(samples[top:bottom]),
            profile,
            DISPLAY_P3,
            colorspace="rgb",
            outcolorspace="rgb",
            intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        )

    try:
        return in_bands(converted, samples.shape, samples.dtype)
    except imagecodecs.CmsError:
        return None


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

    return in_bands(mix, (*samples.shape[:2], 3), samples.dtype)


_MOST_SHARING = 8  # tags may share their content, as the curves of three channels do: about three times as much


def profile_tags(profile: bytes) -> dict[bytes, bytes]:
    """Content of every tag of an ICC profile. ValueError: its table of tags cannot be read, or is absurd."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(count)]
    except struct.error as error:
        raise ValueError("a profile whose table of tags is cut short") from error
    if sum(min(length, len(profile)) for _, _, length in entries) > _MOST_SHARING * len(profile):
        raise ValueError("a profile whose tags lie over each other")
    return {name: profile[at : at + length] for name, at, length in entries}


def _rgb_profile_of_grey(profile: bytes) -> bytes | None:
    """An RGB profile in which equal channels look as that grey does in a grey profile: its curve, sRGB's primaries.

    None if the grey profile has no tone curve towards XYZ (ICC.1:2010, 8.3.4: monochrome input and display profiles).
    """
    try:
        tags = profile_tags(profile)
    except ValueError:
        return None
    curve = tags.pop(b"kTRC", b"")
    if not curve or profile[20:24] != b"XYZ ":
        return None
    tags.setdefault(b"wtpt", b"XYZ \0\0\0\0" + _WHITE)  # some lack it, and JPEG XL's encoder insists
    return _profile_bytes(profile[:128], tags | _matrix_tags(SRGB_PRIMARIES, curve))


Primaries = tuple[tuple[float, float, float], ...]
"""X, Y and Z of red, green and blue, adapted to D50."""

SRGB_PRIMARIES: Primaries = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
_ADOBE: Primaries = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_P3: Primaries = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
_BT2020: Primaries = ((0.67346, 0.27904, -0.00193), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79684))

_WHITE = struct.pack(">3i", 63190, 65536, 54061)  # D50
_SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + struct.pack(
    ">5i", *(round(value * 65536) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
_ADOBE_CURVE = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563)  # gamma 563 / 256


def _matrix_tags(primaries: Primaries, curve: bytes) -> dict[bytes, bytes]:
    tags = {}
    for channel, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[channel + b"XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in xyz))
        tags[channel + b"TRC"] = curve
    return tags


def _profile_bytes(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    body_at = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, body_at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    # size, the class of a display with a matrix and curves, RGB; bytes 84 to 99 are a digest that no longer holds
    start = struct.pack(">I", body_at + len(body)) + header[4:12] + b"mntrRGB " + header[20:84] + bytes(44)
    return start + table + body


def _display_profile(name: str, primaries: Primaries, curve: bytes) -> bytes:
    """A profile of three primaries and one curve (ICC.1:2010, 8.4.3: display profiles, matrix and curves)."""
    # size and class are filled in later; dated the first day of 2026; the colour space in between is XYZ
    header = bytes(8) + b"\4\x20\0\0" + bytes(8) + b"XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    header = header.ljust(68, b"\0") + _WHITE
    words = {b"desc": name, b"cprt": "No copyright, use freely"}
    tags = {
        tag: b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", 2 * len(text), 28) + text.encode("utf-16-be")
        for tag, text in words.items()
    }
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + _WHITE
    return _profile_bytes(header.ljust(128, b"\0"), tags | _matrix_tags(primaries, curve))


DISPLAY_P3 = _display_profile("Display P3", _P3, _SRGB_CURVE)
ADOBE_RGB = _display_profile("Compatible with Adobe RGB (1998)", _ADOBE, _ADOBE_CURVE)
_REC_2020 = _display_profile("Rec. 2020 primaries, sRGB curve", _BT2020, _SRGB_CURVE)

_SRGB_POINTS = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
_NEAR = 0.002
_BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))
_D50 = np.array((0.96422, 1.0, 0.82521))


def profile_of_chromaticities(points: tuple[float, ...] | None, gamma: float | None) -> bytes | None:
    """The profile of a PNG that gives x and y of white, red, green and blue, a tone curve's exponent, or both.

    None stands for sRGB. Refused: points that span no triangle.
    """
    if gamma is not None and abs(gamma - 2.2) < 0.01 and points is None:
        gamma = None  # what "sRGB" was called before there was a chunk for it
    close = points is None or max(abs(a - b) for a, b in zip(points, _SRGB_POINTS, strict=True)) < _NEAR
    if close and (gamma is None or abs(gamma - 2.2) < 0.01):
        return None
    curve = _SRGB_CURVE if gamma is None else b"para" + bytes(8) + struct.pack(">i", round(gamma * 65536))
    primaries = SRGB_PRIMARIES if points is None else _adapted(points)
    return _display_profile("By the chunks gAMA and cHRM", primaries, curve)


def _adapted(points: tuple[float, ...]) -> Primaries:
    """X, Y and Z of the primaries under D50, by Bradford's way (ICC.1:2010, annex E)."""
    try:
        xyz = [np.array((x / y, 1.0, (1 - x - y) / y)) for x, y in zip(points[::2], points[1::2], strict=True)]
        matrix = np.stack(xyz[1:], axis=1)
        matrix = matrix * np.linalg.solve(matrix, xyz[0])
        scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ xyz[0]))
        adapted = np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ matrix
    except (ZeroDivisionError, np.linalg.LinAlgError):
        raise Refused("its primaries (cHRM) are no colours") from None
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 4:
        raise Refused("its primaries (cHRM) are no colours")
    return tuple((float(x), float(y), float(z)) for x, y, z in adapted.T)


_HDR_CURVES = (16, 18)  # PQ and HLG


def profile_of_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile for the numbers that HEIC and AVIF may hold instead of one (ITU-T H.273, 8.1 and 8.2); None is sRGB.

    As browsers do, every curve that is no HDR curve is taken for sRGB's: files say BT.709 and mean sRGB.

    Raises:
        Refused: an HDR curve, whose brightness cannot be shown without a tone mapping that would be a retouch already.
    """
    if transfer in _HDR_CURVES:
        raise Refused("its brightness is HDR (PQ or HLG), and only standard range can be opened")
    return {9: _REC_2020, 11: DISPLAY_P3, 12: DISPLAY_P3}.get(primaries)
