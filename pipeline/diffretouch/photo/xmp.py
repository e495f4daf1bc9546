"""XMP packets: read as XML, so that a property is found as an element or an attribute and under any prefix.

A packet in which nothing has to change stays as it is, byte for byte. One that is no XML, or has a document type,
which could define entities without end, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

NAMESPACES = {
    "Container": "http://ns.google.com/photos/1.0/container/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "GImage": "http://ns.google.com/photos/1.0/image/",
    "HDRGainMap": "http://ns.apple.com/HDRGainMap/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "apdi": "http://ns.apple.com/pixeldatainfo/1.0/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "darktable": "http://darktable.sf.net/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "geotate": "http://geotate.com/rdf/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "mediapro": "http://ns.iview-multimedia.com/mediapro/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "photomech": "http://ns.camerabits.com/photomechanic/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "wgs84": "http://www.w3.org/2003/01/geo/wgs84_pos#",
    "x": "adobe:ns:meta/",
    "xml": "http://www.w3.org/XML/1998/namespace",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
}
"""Name spaces by their usual prefixes, which is how properties are written in this package: "dc:title"."""

_PREFIXES = {space: prefix for prefix, space in NAMESPACES.items()}
_EMPTY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
)
_START = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_END = '<?xpacket end="w"?>'

Node = Any
"""An element or an attribute of the XML tree; both have `namespaceURI` and `localName`."""


class Packet:
    """An XMP packet as a tree of properties.

    Args:
        data: the packet, or None for a new one.

    Raises:
        ValueError: it is no XML in an encoding that says itself, or has a document type.
    """

    def __init__(self, data: bytes | None = None):
        self._data = data
        self.changed = False
        self._document = _parsed(_EMPTY.encode() if data is None else data)

    def __bytes__(self) -> bytes:
        """The packet, as it came if nothing was changed."""
        if self._data is not None and not self.changed:
            return self._data
        root = self._document.documentElement
        if root.tagName == _WRAPPER:
            inside = "".join(child.toxml() for child in root.childNodes if child.nodeType == child.ELEMENT_NODE)
        else:
            inside = root.toxml()
        return f"{_START}{inside}{_END}".encode()

    # ---- looking -----------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[tuple[Node, Node]]:
        """All elements and attributes, each with the element it belongs to; declarations of prefixes are none."""
        todo = [self._document.documentElement]
        while todo:
            element = todo.pop()
            for attribute in list((element.attributes or {}).values()):
                if attribute.prefix != "xmlns" and attribute.name != "xmlns":
                    yield attribute, element
            children = [child for child in element.childNodes if child.nodeType == child.ELEMENT_NODE]
            for child in children:
                yield child, element
            todo += children

    def find(self, *names: str) -> list[tuple[Node, Node]]:
        """The nodes of these names, "dc:title" or "crs:*"."""
        return [(node, owner) for node, owner in self.nodes() if name_of(node) in names or _space(node) in names]

    def value(self, name: str) -> str | None:
        """The text of the first property of that name."""
        return next((text_of(node) for node, _ in self.find(name)), None)

    # ---- changing ----------------------------------------------------------------------------------------------

    def drop(self, wanted: Callable[[Node], bool]) -> int:
        """Take out all nodes that are `wanted`, with what is in them; how many there were."""
        gone = [(node, owner) for node, owner in self.nodes() if wanted(node)]
        for node, owner in gone:
            _remove(node, owner)
        if gone:
            self.changed = True
            self._undeclare()
        return len(gone)

    def _undeclare(self) -> None:
        """Take out the prefixes that nothing uses any more: programs look for them instead of properties."""
        root = self._document.documentElement
        elements = [root, *root.getElementsByTagName("*")]
        attributes = [(element, one) for element in elements for one in list((element.attributes or {}).values())]
        used = {node.namespaceURI for node in (*elements, *(one for _, one in attributes)) if node.prefix != "xmlns"}
        for element, one in attributes:
            if one.prefix == "xmlns" and one.value not in used:
                element.removeAttribute(one.name)

    def drop_names(self, *names: str) -> int:
        """Take out the nodes of these names, see `find`."""
        return self.drop(lambda node: name_of(node) in names or _space(node) in names)

    def set_text(self, node: Node, text: str) -> None:
        """Give an attribute or an element of text another value."""
        if text_of(node) == text:
            return
        self.changed = True
        if node.nodeType == node.ATTRIBUTE_NODE:
            node.value = text
            return
        while node.firstChild:
            node.removeChild(node.firstChild)
        node.appendChild(self._document.createTextNode(text))

    def put(self, name: str, text: str) -> None:
        """Set a simple property of the photo, new or old."""
        found = self.find(name)
        if found:
            self.set_text(found[0][0], text)
        else:
            self.element(self.description(), name, text)

    def add_items(self, name: str, container: str, items: list[str]) -> None:
        """Set a property that is a list: `container` is "Bag", "Seq" or "Alt"."""
        self.drop_names(name)
        inside = self.element(self.element(self.description(), name), f"rdf:{container}")
        for item in items:
            entry = self.element(inside, "rdf:li", item)
            if container == "Alt":
                entry.setAttributeNS(NAMESPACES["xml"], "xml:lang", "x-default")

    def append_structure(self, name: str, fields: dict[str, str]) -> None:
        """Append a structure to an ordered list, which is made if there is none."""
        found = [node for node, _ in self.find(name) if node.nodeType == node.ELEMENT_NODE]
        place = found[0] if found else self.element(self.description(), name)
        lists = [child for child in place.childNodes if child.nodeType == child.ELEMENT_NODE]
        inside = lists[0] if lists else self.element(place, "rdf:Seq")
        entry = self.element(inside, "rdf:li")
        entry.setAttributeNS(NAMESPACES["rdf"], "rdf:parseType", "Resource")
        for field, text in fields.items():
            self.element(entry, field, text)

    def description(self) -> Node:
        """The element that holds the photo's properties."""
        found = self.find("rdf:Description")
        if found:
            return found[0][0]
        roots = self.find("rdf:RDF")
        return self.element(roots[0][0] if roots else self._document.documentElement, "rdf:Description")

    def element(self, owner: Node, name: str, text: str = "") -> Node:
        """A new element in `owner`, which declares its own prefix."""
        self.changed = True
        prefix = name.partition(":")[0]
        element = self._document.createElementNS(NAMESPACES[prefix], name)
        element.setAttribute(f"xmlns:{prefix}", NAMESPACES[prefix])
        if text:
            element.appendChild(self._document.createTextNode(text))
        return owner.appendChild(element)

    def merge(self, other: Packet) -> None:
        """Take in the descriptions of another packet, as those in a JPEG's extension segments."""
        roots = self.find("rdf:RDF")
        for node, _ in other.find("rdf:Description"):
            if roots and node.parentNode.localName == "RDF":
                roots[0][0].appendChild(self._document.importNode(node, True))
                self.changed = True

    def split(self, most: int) -> Packet | None:
        """Move the largest properties into another packet until this one has at most `most` bytes; None if it has."""
        other: Packet | None = None
        while len(bytes(self)) > most:
            elements = [
                child
                for node, _ in self.find("rdf:Description")
                if node.parentNode.localName == "RDF"
                for child in node.childNodes
                if child.nodeType == child.ELEMENT_NODE
            ]
            if not elements:
                break
            largest = max(elements, key=lambda element: len(element.toxml()))
            other = other or Packet()
            moved = other.description().appendChild(other._document.importNode(largest, True))
            _declare(moved)
            other.changed = self.changed = True
            largest.parentNode.removeChild(largest)
        return other


_WRAPPER = "diffretouch"


def _parsed(data: bytes) -> Any:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("XMP with a document type")
    try:
        return minidom.parseString(data.strip(b"\0 \r\n\t"))
    except (ExpatError, ValueError, LookupError):
        return _parsed_leniently(data)


def _parsed_leniently(data: bytes) -> Any:
    """As viewers do with packets whose prefixes are declared nowhere: by the usual ones."""
    try:
        text = re.sub(r"<\?.*?\?>", "", data.decode("utf-8").strip("\0\ufeff \r\n\t"), flags=re.DOTALL)
        used = set(re.findall(r"[<\s/]([A-Za-z_][\w.-]*):[A-Za-z_]", text))
        missing = sorted(prefix for prefix in used if f"xmlns:{prefix}=" not in text and prefix != "xmlns")
        spaces = " ".join(f'xmlns:{prefix}="{NAMESPACES.get(prefix, f"urn:{prefix}")}"' for prefix in missing)
        document: Any = minidom.parseString(f"<{_WRAPPER} {spaces}>{text}</{_WRAPPER}>".encode())
        loose = [child for child in document.documentElement.childNodes if child.nodeType == child.TEXT_NODE]
        if any(child.data.strip() for child in loose):
            raise ValueError("text outside of elements")
        return document
    except (ExpatError, ValueError) as error:
        raise ValueError("XMP that is no XML") from error


def _declare(element: Node) -> None:
    """Declare the prefixes that an element took with it from where they had been declared."""
    for node in (element, *element.getElementsByTagName("*")):
        spaces = {(node.prefix, node.namespaceURI)}
        spaces |= {(attribute.prefix, attribute.namespaceURI) for attribute in (node.attributes or {}).values()}
        for prefix, space in spaces:
            if prefix and prefix not in ("xmlns", "xml") and space and not element.hasAttribute(f"xmlns:{prefix}"):
                element.setAttribute(f"xmlns:{prefix}", space)


def name_of(node: Node) -> str:
    """A node's name with the usual prefix of its name space."""
    return f"{_PREFIXES.get(node.namespaceURI, node.prefix or '')}:{node.localName}"


def _space(node: Node) -> str:
    return f"{_PREFIXES.get(node.namespaceURI, '')}:*"


def text_of(node: Node) -> str:
    """The value of an attribute, or all text in an element."""
    if node.nodeType == node.ATTRIBUTE_NODE:
        return node.value
    parts = [child for child in node.childNodes]
    return "".join(
        child.data if child.nodeType in (child.TEXT_NODE, child.CDATA_SECTION_NODE) else text_of(child)
        for child in parts
        if child.nodeType in (child.TEXT_NODE, child.CDATA_SECTION_NODE, child.ELEMENT_NODE)
    )


def _remove(node: Node, owner: Node) -> None:
    if node.nodeType == node.ATTRIBUTE_NODE:
        if owner.hasAttribute(node.name):
            owner.removeAttribute(node.name)
    elif node.parentNode is owner:
        owner.removeChild(node)
