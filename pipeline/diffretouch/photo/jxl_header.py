"""What a JPEG XL codestream says before its picture (ISO/IEC 18181-1, annex D), which OpenImageIO decodes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .core import Refused

MOST_BYTES = 4096  # in which a header ends, whatever its names of channels
_CUT = "it is damaged or cut short"
_ALPHA, _SPOT, _FILTERED = 0, 2, 5  # kinds of channels
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # of width to height


class Channel(NamedTuple):
    """A channel beside the colours; `premultiplied`: colours are multiplied by this alpha."""

    is_alpha: bool
    premultiplied: bool = False


class Header(NamedTuple):
    """Size as stored, before the orientation, and how the samples are kept.

    Attributes:
        channels: those beside the colours.
        converted: the picture is stored in the codec's own colours, which loses something, and not in the photo's.
        has_profile: colours are told by an ICC profile, not by numbers.
        depth_at: which bit of the codestream is the first of the two that say 8 bits a sample; None: no two do.
    """

    width: int
    height: int
    animated: bool
    bits: int
    is_float: bool
    channels: tuple[Channel, ...]
    converted: bool
    has_profile: bool
    depth_at: int | None = None


class _Bits:
    """Bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes):
        self._number, self._left = int.from_bytes(data, "little"), 8 * len(data)
        self.taken = 0

    def take(self, count: int) -> int:
        if count > self._left:
            raise Refused(_CUT)
        value = self._number & (1 << count) - 1
        self._number >>= count
        self._left -= count
        self.taken += count
        return value

    def flag(self) -> bool:
        return bool(self.take(1))

    def number(self, *ways: tuple[int, int]) -> int:
        """One of four ways, by two bits: a least value and how many bits are added to it."""
        least, count = ways[self.take(2)]
        return least + self.take(count)

    def kind(self) -> int:
        return self.number((0, 0), (1, 0), (2, 4), (18, 6))


def read_header(codestream: bytes) -> Header:
    """The header of a codestream, of which the first `MOST_BYTES` do. Refused: there is none, or it is cut short."""
    if not codestream.startswith(b"\xff\x0a"):
        raise Refused(_CUT)
    bits = _Bits(codestream[2:MOST_BYTES])
    after_mark = 16  # bits
    width, height = _size(bits)
    if bits.flag():  # all else as usual
        return Header(width, height, False, 8, False, (), True, False)
    animated = _skip_presentation(bits) if bits.flag() else False
    depth_at = after_mark + bits.taken + 1
    is_float, depth = _depth(bits)
    by_two_bits = not is_float and depth == 8 and bits.taken + after_mark == depth_at + 2
    bits.flag()  # whether 16 bits are enough to decode it
    count = bits.number((0, 0), (1, 0), (2, 4), (1, 12))
    channels = tuple(_channel(bits) for _ in range(count))
    converted = bits.flag()
    has_profile = not bits.flag() and bits.flag()
    at = depth_at if by_two_bits else None
    return Header(width, height, animated, depth, is_float, channels, converted, has_profile, at)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.number((1, 9), (1, 13), (1, 18), (1, 30))

    return _sides(bits, side)


def _preview_size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.flag()

    def side() -> int:
        if in_eights:
            return 8 * bits.number((16, 0), (32, 0), (1, 5), (33, 9))
        return bits.number((1, 6), (65, 8), (321, 10), (1345, 12))

    return _sides(bits, side)


def _sides(bits: _Bits, side: Callable[[], int]) -> tuple[int, int]:
    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    above, below = _RATIOS[ratio]
    return height * above // below, height


def _skip_presentation(bits: _Bits) -> bool:
    """Pass over orientation, intended size and preview. Whether there is an animation."""
    bits.take(3)
    if bits.flag():
        _size(bits)
    if bits.flag():
        _preview_size(bits)
    if not bits.flag():
        return False
    bits.number((100, 0), (1000, 0), (1, 10), (1, 30))  # ticks
    bits.number((1, 0), (1001, 0), (1, 8), (1, 10))  # per so many seconds
    bits.number((0, 0), (0, 3), (0, 16), (0, 32))  # rounds
    bits.flag()  # with time codes
    return True


def _depth(bits: _Bits) -> tuple[bool, int]:
    """Whether samples are floating-point numbers, and of how many bits."""
    if not bits.flag():
        return False, bits.number((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)  # of these for the exponent
    return True, depth


def _channel(bits: _Bits) -> Channel:
    if bits.flag():
        return Channel(is_alpha=True)
    kind = bits.kind()
    _depth(bits)
    bits.number((0, 0), (3, 0), (4, 0), (1, 3))  # how much smaller it is
    for _ in range(bits.number((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)  # of its name
    if kind == _ALPHA:
        return Channel(is_alpha=True, premultiplied=bits.flag())
    if kind == _SPOT:
        bits.take(64)
    elif kind == _FILTERED:
        bits.number((1, 0), (0, 2), (3, 4), (19, 8))
    return Channel(is_alpha=False)
