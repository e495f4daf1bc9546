"""What a photo's XMP claims that is no longer so once it has been opened and retouched, and what is written instead.

Claims go where their object goes: previews of the old picture, videos and gain maps behind the picture, manifests of
content credentials, settings that a RAW developer would apply to the finished picture. Regions turn with the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

from .companions import CREDENTIALS_LOST, DEPTH_LOST, GAIN_MAP_LOST, VIDEO_LOST
from .core import MIME, SOURCE_TYPE, one_line
from .iptc import TWINS, texts
from .xmp import Node, Packet, name_of, text_of

_THUMBNAILS = ("xmp:Thumbnails",)
_VIDEO_CLAIMS = ("MotionPhoto", "MicroVideo")  # how the names in GCamera start
_ITEM_SEMANTICS = {"GainMap": GAIN_MAP_LOST, "MotionPhoto": VIDEO_LOST, "Depth": DEPTH_LOST}
_GAIN_MAP_SPACES = ("hdrgm:*", "HDRGainMap:*", "apdi:*")
_DEPTH_SPACES = ("GDepth:*", "GImage:*")
_DYNAMIC_DEPTH = "http://ns.google.com/photos/dd/1.0/"  # of several name spaces, one per kind of structure
_DEVELOPED = ("crs:*", "darktable:*")

_PLACES = frozenset(
    ("photoshop:City", "photoshop:State", "photoshop:Country", "Iptc4xmpCore:Location", "Iptc4xmpCore:CountryCode")
    + ("Iptc4xmpExt:LocationShown", "Iptc4xmpExt:LocationCreated", "Iptc4xmpExt:City", "Iptc4xmpExt:Sublocation")
    + ("Iptc4xmpExt:ProvinceState", "Iptc4xmpExt:CountryName", "Iptc4xmpExt:CountryCode", "Iptc4xmpExt:WorldRegion")
    + (
        "Iptc4xmpExt:LocationName",
        "Iptc4xmpExt:LocationId",
        "Iptc4xmpExt:RatingRegion",
        "mediapro:Location",
        "photomech:CountryCode",
    )
)
"""XMP properties that say where a photo was taken, beside all of `_PLACE_SPACES` and `_PLACE_WORDS` anywhere.

Together they hold what exiftool puts into its group Location.
"""
_PLACE_SPACES = (
    "http://geotate.com/rdf/1.0/",
    "http://www.w3.org/2003/01/geo/wgs84_pos#",
    "http://www.dji.com/drone-dji/1.0/",  # where a drone flew, and how
    "http://rs.tdwg.org/dwc/",  # Darwin Core: where a living thing was seen
    "http://developer.sonyericsson.com/cell/1.0/",  # which mobile mast was near
)
_PLACE_WORDS = ("latitude", "longitude")


class Opened(NamedTuple):
    """An XMP packet that is true of the opened photo, and what went with its claims."""

    xmp: bytes | None
    notes: tuple[str, ...]


def opened_xmp(data: bytes | None, orientation: int, turned: bool) -> Opened:
    """The packet of a photo that is now turned by `orientation`; `turned`: by its decoder."""
    if data is None:
        return Opened(None, ())
    try:
        packet = Packet(data)
    except ValueError as error:
        return Opened(data, ()) if b"\0" in data else Opened(None, (f"its XMP is left out: {one_line(error)}",))
    notes = _without_claims(packet)
    _without_settings(packet)
    if orientation != 1 or turned:
        for node, _ in packet.find("tiff:Orientation"):
            packet.set_text(node, "1")
    if orientation != 1:
        _turn_regions(packet, orientation)
    return Opened(bytes(packet), tuple(notes))


def _without_claims(packet: Packet) -> list[str]:
    packet.drop_names(*_THUMBNAILS)
    packet.drop_names("xmpNote:HasExtendedXMP")
    notes = [note for semantic, note in _ITEM_SEMANTICS.items() if _has_item(packet, semantic)]
    packet.drop_names("Container:Directory")
    if packet.drop(lambda node: name_of(node).startswith(tuple(f"GCamera:{name}" for name in _VIDEO_CLAIMS))):
        notes.append(VIDEO_LOST)
    if packet.drop_names(*_GAIN_MAP_SPACES):
        notes.append(GAIN_MAP_LOST)
    if packet.drop_names(*_DEPTH_SPACES) + packet.drop(
        lambda node: (node.namespaceURI or "").startswith(_DYNAMIC_DEPTH)
    ):
        notes.append(DEPTH_LOST)
    if packet.drop_names("dcterms:provenance"):
        notes.append(CREDENTIALS_LOST)
    return list(dict.fromkeys(notes))


def _has_item(packet: Packet, semantic: str) -> bool:
    return any(
        node.localName == "Semantic" and text_of(node) == semantic and "container/item" in (node.namespaceURI or "")
        for node, _ in packet.nodes()
    )


def _without_settings(packet: Packet) -> None:
    """Take out what a RAW developer would do once more to the finished picture."""
    if packet.value("crs:AlreadyApplied") != "True":
        packet.drop_names(*_DEVELOPED)


# ---- regions -------------------------------------------------------------------------------------------------------


def turned_point(x: float, y: float, orientation: int) -> tuple[float, float]:
    """Where a place of the stored picture is in the upright one, both in [0, 1] from the upper left."""
    if orientation in (2, 3):
        x = 1 - x
    if orientation in (3, 4):
        y = 1 - y
    if orientation >= 5:
        x, y = y, x
        if orientation in (6, 7):
            x = 1 - x
        if orientation in (7, 8):
            y = 1 - y
    return x, y


def _turn_regions(packet: Packet, orientation: int) -> None:
    for area, _ in packet.find("mwg-rs:Area"):
        _turn_area(packet, area, orientation)
    if orientation >= 5:
        for sizes, _ in packet.find("mwg-rs:AppliedToDimensions"):
            inside = _fields(packet, sizes)
            if "stDim:w" in inside and "stDim:h" in inside:
                wide, high = text_of(inside["stDim:w"]), text_of(inside["stDim:h"])
                packet.set_text(inside["stDim:w"], high)
                packet.set_text(inside["stDim:h"], wide)
    for rectangle, _ in packet.find("MPReg:Rectangle"):
        try:
            left, top, across, down = (float(part) for part in text_of(rectangle).split(","))
        except ValueError:
            continue
        (x1, y1), (x2, y2) = (turned_point(x, y, orientation) for x, y in ((left, top), (left + across, top + down)))
        numbers = (min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1))
        packet.set_text(rectangle, ", ".join(f"{number:.6f}" for number in numbers))


def _turn_area(packet: Packet, area: Node, orientation: int) -> None:
    """An area is given by its middle and its size."""
    inside = _fields(packet, area)
    try:
        x, y = turned_point(float(text_of(inside["stArea:x"])), float(text_of(inside["stArea:y"])), orientation)
    except (KeyError, ValueError):
        return
    packet.set_text(inside["stArea:x"], f"{x:.6f}")
    packet.set_text(inside["stArea:y"], f"{y:.6f}")
    if orientation >= 5 and "stArea:w" in inside and "stArea:h" in inside:
        wide, high = text_of(inside["stArea:w"]), text_of(inside["stArea:h"])
        packet.set_text(inside["stArea:w"], high)
        packet.set_text(inside["stArea:h"], wide)


def _fields(packet: Packet, structure: Node) -> dict[str, Node]:
    """The attributes and elements of a structure by name, those of a description in it too."""
    inside: dict[str, Node] = {}
    if structure.nodeType != structure.ELEMENT_NODE:
        return inside
    for element in (structure, *structure.getElementsByTagNameNS("*", "Description")):
        inside |= {name_of(attribute): attribute for attribute in (element.attributes or {}).values()}
        inside |= {name_of(child): child for child in element.childNodes if child.nodeType == child.ELEMENT_NODE}
    return inside


# ---- saving --------------------------------------------------------------------------------------------------------


def xmp_without_places(data: bytes | None) -> bytes | None:
    """A packet without a word of where the photo was taken; None if it cannot be read."""
    if data is None:
        return None
    try:
        packet = Packet(data)
    except ValueError:
        return None
    packet.drop(lambda node: _names_a_place(node))
    return bytes(packet)


def _names_a_place(node: Node) -> bool:
    local = (node.localName or "").lower()
    told = local.startswith("gps") or any(word in local for word in _PLACE_WORDS)
    return told or name_of(node) in _PLACES or (node.namespaceURI or "").startswith(_PLACE_SPACES)


def names_editor(data: bytes | None, program: str) -> bool:
    """Whether a packet says, as `saved_xmp` writes it, that this program made or edited the photo."""
    if data is None or program.encode() not in data:
        return False
    try:
        told = Packet(data).find("xmp:CreatorTool", "stEvt:softwareAgent")
    except ValueError:
        return False
    return any(text_of(node) == program for node, _ in told)


def saved_xmp(data: bytes | None, suffix: str, done: str | None, program: str, records: bytes | None) -> bytes | None:
    """The packet as it is written: true of the new file, and with what was done to it.

    Args:
        data: the photo's packet.
        suffix: of the file that is written, in lower case.
        done: how the photo was retouched, for its history; None = nothing is noted.
        program: the name that does it.
        records: IPTC records, where the format has no place for them: they become their XMP twins.
    """
    try:
        packet = Packet(data)
    except ValueError:
        return data
    if packet.find("dc:format") and suffix in MIME:
        packet.put("dc:format", MIME[suffix])
    for dataset, found in texts(records or b"").items():
        name, container = TWINS[dataset]
        if packet.find(name):
            continue
        if container:
            packet.add_items(name, container, found[:1] if container == "Alt" else found)
        else:
            packet.put(name, found[0])
    if done is not None:
        packet.put("xmp:CreatorTool", program)
        packet.put("Iptc4xmpExt:DigitalSourceType", SOURCE_TYPE)
        # No time: the same retouch gives the same bytes, by which an interrupted batch knows its own files.
        event = {"stEvt:action": "edited", "stEvt:softwareAgent": program, "stEvt:parameters": done}
        packet.append_structure("xmpMM:History", event)
    return bytes(packet) if data is not None or packet.changed else None
