"""Small made inputs for tests of photo files: structures by the book, drawn pictures, invented names and places."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image

MODEL, WHEN = "Invented Camera 1", "2026:05:17 18:30:00"


def scene(seed: int = 1, width: int = 320, height: int = 240) -> Image.Image:
    """A smooth picture of many colours with some grain; no two seeds are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(1, 7, (3, 3))]
    return Image.fromarray(
        np.clip(np.stack(waves, -1) * 90 + 128 + rng.normal(0, 2, (height, width, 3)), 0, 255).astype(np.uint8)
    )


def deep(image: Image.Image, seed: int = 0) -> np.ndarray:
    """The picture as uint16 with levels between those of 8 bits."""
    rng = np.random.default_rng(seed)
    return np.clip(
        np.asarray(image).astype(np.float64) * 257 + rng.uniform(-128, 128, np.asarray(image).shape), 0, 65535
    ).astype(np.uint16)


def tiff_block(directories: list[dict], order: str = "<") -> bytes:
    """A TIFF structure: a chain of directories {tag: (type, values or bytes or a nested {tag: ...})}."""
    block = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    for number, tags in enumerate(directories, start=1):
        block += tiff_directory(tags, len(block), order, number < len(directories))
    return block


def tiff_directory(tags: dict, at: int, order: str = "<", following: bool = False) -> bytes:
    """One directory that belongs at the position `at`, with what it points to; `following`: one comes behind."""
    entries, tail, tail_at = [], b"", at + 2 + 12 * len(tags) + 4
    for code in sorted(tags):
        kind, values = tags[code]
        if isinstance(values, dict):
            where = tail_at + len(tail)
            tail += tiff_directory(values, where, order)
            entries.append(struct.pack(order + "HHII", code, 4, 1, where))
            continue
        data = _tiff_values(kind, values, order)
        inline = data.ljust(4, b"\0")
        if len(data) > 4:
            inline = struct.pack(order + "I", tail_at + len(tail))
            tail += data + bytes(len(data) % 2)
        count = len(data) // {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}[kind]
        entries.append(struct.pack(order + "HHI4s", code, kind, count, inline))
    behind = tail_at + len(tail) if following else 0
    return struct.pack(order + "H", len(tags)) + b"".join(entries) + struct.pack(order + "I", behind) + tail


def _tiff_values(kind: int, values, order: str) -> bytes:
    if isinstance(values, (bytes, bytearray)):
        return bytes(values)
    if isinstance(values, str):
        return values.encode() + b"\0"
    values = values if isinstance(values, (tuple, list)) else (values,)
    if kind in (5, 10):
        values = [part for value in values for part in (round(value * 10_000), 10_000)]
    return struct.pack(order + str(len(values)) + {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}[kind], *values)


def exif(
    order: str = "<",
    orientation: int = 1,
    gps: bool = False,
    more: dict | None = None,
    exif_more: dict | None = None,
    make: str = "Invented",
    model: str = MODEL,
) -> bytes:
    """An EXIF block as a camera of no maker would write it; the place is in the middle of the sea."""
    inside = {
        33434: (5, 1 / 200),
        33437: (5, 5.6),
        34855: (3, 200),
        36864: (7, b"0232"),
        36867: (2, WHEN),
        36868: (2, WHEN),
    }
    main = {
        271: (2, make),
        272: (2, model),
        274: (3, orientation),
        306: (2, WHEN),
        315: (2, "Photographer Name"),
        33432: (2, "Copyright Photographer Name"),
        34665: (4, inside | (exif_more or {})),
    }
    if gps:
        main[34853] = (4, {0: (1, (2, 3, 0, 0)), 1: (2, "S"), 2: (5, (30, 15, 0)), 3: (2, "W"), 4: (5, (20, 45, 0))})
    return tiff_block([main | (more or {})], order)


NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "dcterms": "http://purl.org/dc/terms/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "HDRGainMap": "http://ns.apple.com/HDRGainMap/1.0/",
    "apdi": "http://ns.apple.com/pixeldatainfo/1.0/",
    "geotate": "http://geotate.com/rdf/1.0/",
}


def xmp(elements: str = "", attributes: str = "") -> bytes:
    """An XMP packet with these properties, as elements or as attributes of the description."""
    used = [name for name in NAMESPACES if f"{name}:" in elements + attributes]
    spaces = " ".join(f'xmlns:{name}="{NAMESPACES[name]}"' for name in used)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {spaces} {attributes}>{elements}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def alt(text: str) -> str:
    return f'<rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt>'


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


XMP_MARK, EXTENSION_MARK = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"


def jpeg(
    image: Image.Image,
    quality: int = 88,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    others: list[bytes] | None = None,
    **options,
) -> bytes:
    """A JPEG without JFIF, EXIF first, then XMP, then other segments, as cameras write it."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, **options)
    plain = data.getvalue()
    jfif = 4 + struct.unpack_from(">H", plain, 4)[0]
    parts = [segment(0xE1, b"Exif\0\0" + exif)] if exif else []
    parts += [segment(0xE1, XMP_MARK + xmp)] if xmp else []
    return plain[:2] + b"".join(parts + (others or [])) + plain[jfif:]


def iptc(fields: list[tuple[int, str]], utf8: bool = False) -> bytes:
    """IPTC-IIM application records (IIM 4.2): {dataset: text}."""
    start = b"\x1c\x01\x5a\0\x03\x1b%G" if utf8 else b""
    coded = [(number, text.encode("utf-8" if utf8 else "latin-1")) for number, text in fields]
    return start + b"".join(struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text for number, text in coded)


def photoshop(blocks: dict[int, bytes]) -> bytes:
    """Photoshop image resources: {number: content}."""
    return b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + bytes(len(content) % 2)
        for number, content in blocks.items()
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, chunks: list[tuple[bytes, bytes]] = (), after: list[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG with chunks before and behind its pixels."""
    encoded = imagecodecs.png_encode(np.ascontiguousarray(pixels), 9)
    header, rest = encoded[:33], encoded[33:]
    parts = {encoded.find(kind) for kind in (b"gAMA", b"cHRM", b"sRGB", b"iCCP")}
    assert parts == {-1}, "the encoder added colour chunks of its own"
    before = b"".join(chunk(*one) for one in chunks)
    return header + before + rest[:-12] + b"".join(chunk(*one) for one in after) + rest[-12:]


def raw_profile(kind: str, content: bytes) -> bytes:
    """The text that ImageMagick and exiv2 keep metadata of other formats in."""
    lines = content.hex()
    lines = "\n".join(lines[at : at + 72] for at in range(0, len(lines), 72))
    return f"\n{kind}\n{len(content):8d}\n{lines}\n".encode()


def mosaic(image: Image.Image, pattern: str = "RGGB", top: int = 4000, black: int = 64) -> np.ndarray:
    """The picture as a sensor under a colour filter sees it, linear."""
    light = (np.asarray(image.convert("RGB")) / 255.0) ** 2.2 * top + black
    seen = np.empty(light.shape[:2], np.uint16)
    for number, letter in enumerate(pattern):
        down, right = divmod(number, 2)
        seen[down::2, right::2] = light[down::2, right::2, "RGB".index(letter)]
    return seen


def dng(
    image: Image.Image,
    xmp: bytes | None = None,
    order: str = "<",
    packed: bool = False,
    extra: dict | None = None,
    spoil=lambda data: data,
) -> bytes:
    """A DNG 1.4 of one strip: a mosaic, plain or as lossless JPEG, that says it is by no maker's camera."""
    seen = mosaic(image)
    height, width = seen.shape
    data = imagecodecs.ljpeg_encode(seen, bitspersample=14) if packed else seen.astype(order + "u2").tobytes()
    data = spoil(data)
    matrix = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)
    inside = {33434: (5, 1 / 200), 34855: (3, 200), 36864: (7, b"0232"), 36867: (2, WHEN)}
    tags = {
        254: (4, 0),
        256: (4, width),
        257: (4, height),
        258: (3, 16),
        259: (3, 7 if packed else 1),
        262: (3, 32803),
        271: (2, "Invented"),
        272: (2, MODEL),
        273: (4, 0),
        274: (3, 1),
        277: (3, 1),
        278: (4, height),
        279: (4, len(data)),
        306: (2, WHEN),
        33421: (3, (2, 2)),
        33422: (1, (0, 1, 1, 2)),
        34665: (4, inside),
        50706: (1, (1, 4, 0, 0)),
        50707: (1, (1, 1, 0, 0)),
        50708: (2, MODEL),
        50714: (3, 64),
        50717: (3, 4064),
        50721: (10, matrix),
        50728: (5, (1.0, 1.0, 1.0)),
        50778: (3, 21),
    }
    tags |= ({700: (1, xmp)} if xmp else {}) | (extra or {})
    length = len(tiff_block([tags], order))
    tags[273] = (4, length)
    return tiff_block([tags], order) + data


def raf(image: Image.Image, order: str = ">", model: str = "INVENTED X1", more: list[tuple[int, bytes]] = ()) -> bytes:
    """A Fujifilm RAF by the book: header, JPEG preview with the EXIF, table of sizes, 16-bit mosaic."""
    seen = mosaic(image, "GBRG", 4000, 0)
    height, width = seen.shape
    preview = jpeg(image.resize((width // 2, height // 2)), 75, exif(order, make="FUJIFILM", model=model))
    size = struct.pack(">HH", height, width)
    table = [
        (0x100, size),
        (0x110, bytes(4)),
        (0x111, size),
        (0x121, size),
        (0x130, bytes((0, 8, 0, 0))),
        (0x2FF0, struct.pack(">4H", 300, 400, 300, 400)),
        *more,
    ]
    sizes = struct.pack(">I", len(table)) + b"".join(struct.pack(">HH", tag, len(data)) + data for tag, data in table)
    preview_at = 160
    sizes_at = preview_at + len(preview) + -len(preview) % 4
    pixels_at = sizes_at + len(sizes) + -(sizes_at + len(sizes)) % 16
    pixels = seen.astype(order + "u2").tobytes()
    head = b"FUJIFILMCCD-RAW 0201FF000000" + model.encode().ljust(32, b"\0") + b"0100" + bytes(20)
    head += struct.pack(">6I", preview_at, len(preview), sizes_at, len(sizes), pixels_at, len(pixels))
    return (
        (head.ljust(preview_at, b"\0") + preview).ljust(sizes_at, b"\0")
        + sizes.ljust(pixels_at - sizes_at, b"\0")
        + pixels
    )


def panasonic(seen: np.ndarray) -> bytes:
    """12-bit samples as Panasonic's first compressed RAW format packs them: 14 in 16 bytes, blocks of 16 kB."""
    groups = []
    for row in seen.astype(int).tolist():
        for start in range(0, len(row), 14):
            values, word, length, last = row[start : start + 14], 0, 0, [0, 0]

            def put(number: int, bits: int) -> None:
                nonlocal word, length
                word, length = word << bits | number, length + bits

            for i, value in enumerate(values):
                if i < 2:
                    put(value >> 4, 8)
                    put(value & 15, 4)
                    last[i] = value
                    continue
                if i % 3 == 2:
                    shift = _shift(values[i : i + 3], list(last), i)
                    put({0: 0, 1: 1, 2: 2, 4: 3}[shift], 2)
                code, last[i & 1] = _step(value, last[i & 1], shift)
                put(code, 8)
            groups.append((word << 128 - length).to_bytes(16, "little"))
    data = b"".join(groups)
    blocks = (data[at : at + 0x4000].ljust(0x4000, b"\0") for at in range(0, len(data), 0x4000))
    return b"".join(block[0x2008:] + block[:0x2008] for block in blocks)


def _step(value: int, last: int, shift: int) -> tuple[int, int]:
    """The code that brings the last value nearest to this one, and what it brings it to."""
    base = last - (0x80 << shift)
    if base < 0 or shift == 4:
        base = (base if base >= 0 else last - (0x80 << shift)) & (1 << shift) - 1
    code = min(max((value - base + (1 << shift) // 2) >> shift, 1), 255)
    return code, base + (code << shift)


def _shift(values: list[int], last: list[int], at: int) -> int:
    for shift in (0, 1, 2, 4):
        now = list(last)
        for i, value in enumerate(values, start=at):
            _, now[i & 1] = _step(value, now[i & 1], shift)
            if abs(now[i & 1] - value) > 1 << shift:
                break
        else:
            return shift
    return 4


def rw2(image: Image.Image, model: str = "DMC-INVENTED", make: str = "Panasonic") -> bytes:
    """A whole Panasonic RW2 without previews; its sides have to divide by 14 and 2."""
    seen = np.maximum(mosaic(image, "RGGB", 3800, 40), 16)
    height, width = seen.shape
    tags = {
        1: (7, b"0310"),
        2: (3, width),
        3: (3, height),
        4: (3, 0),
        5: (3, 0),
        6: (3, height),
        7: (3, width),
        8: (3, 1),
        9: (3, 1),
        10: (3, 12),
        11: (3, 34316),
        14: (3, 4095),
        15: (3, 4095),
        16: (3, 4095),
        23: (3, 200),
        36: (3, 256),
        37: (3, 256),
        38: (3, 256),
        45: (3, 4),
        271: (2, make),
        272: (2, model),
        273: (4, 0xFFFFFFFF),
        274: (3, 1),
        278: (4, height),
        279: (4, 0),
        280: (4, 0),
        34665: (4, {33434: (5, 1 / 200), 36867: (2, WHEN)}),
    }
    at = len(tiff_block([tags]))
    at += -at % 512
    tags[280] = (4, at)
    return (b"IIU\0" + tiff_block([tags])[4:]).ljust(at, b"\0") + panasonic(seen)


def heic(pixels: np.ndarray, bits: int = 8, **options) -> bytes:
    """A HEIC of uint8 or uint16 `(h, w, 3)`, of 8, 10 or 12 bits."""
    saved = pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    mode = "RGB" if pixels.dtype == np.uint8 else "RGB;16"
    picture = pillow_heif.from_bytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    data = io.BytesIO()
    picture.save(data, **options)
    pillow_heif.options.SAVE_HDR_TO_12_BIT = saved
    return data.getvalue()


def srgb_light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_values(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


D50 = np.array((0.9642, 1.0, 0.8249))


def lab(xyz: np.ndarray) -> np.ndarray:
    t = xyz / D50
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.stack((116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])), -1)


def xyz_of(values: np.ndarray) -> np.ndarray:
    f1 = (values[..., 0] + 16) / 116
    f = np.stack((f1 + values[..., 1] / 500, f1, f1 - values[..., 2] / 200), -1)
    return np.where(f > 6 / 29, f**3, (116 * f - 16) * 27 / 24389) * D50


SRGB_TO_XYZ = np.array(((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410)))


def to_device(srgb: np.ndarray) -> np.ndarray:
    """What the invented scanner of the table profiles stores for an sRGB colour: nearly linear, channels mixed."""
    return 0.08 + 0.84 * srgb_light(srgb)[..., [1, 2, 0]] ** 0.8


def from_device(device: np.ndarray) -> np.ndarray:
    return srgb_values(np.clip((device - 0.08) / 0.84, 0, 1) ** 1.25)[..., [2, 0, 1]]


def table_profile(new_kind: bool = False, nodes: int = 17) -> bytes:
    """An ICC profile of the invented scanner that has tables and no matrix: `mft2`, or `mAB ` of version 4."""
    axis = np.linspace(0, 1, nodes)
    cube = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    forward = lab(srgb_light(from_device(cube)) @ SRGB_TO_XYZ.T)
    scale = np.array((65535 / 100, 257, 257)) if new_kind else np.array((65280 / 100, 256, 256))
    to_lab = np.clip(np.round((forward + (0, 128, 128)) * scale), 0, 65535)
    colours = cube * 65535 / scale - (0, 128, 128)
    light = np.clip(xyz_of(colours) @ np.linalg.inv(SRGB_TO_XYZ).T, 0, 1)
    from_lab = np.round(to_device(srgb_values(light)) * 65535)

    def old(table: np.ndarray) -> bytes:
        head = (
            b"mft2" + bytes(4) + bytes((3, 3, nodes, 0)) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
        )
        line = struct.pack(">2H", 0, 65535) * 3
        return head + struct.pack(">HH", 2, 2) + line + table.astype(">u2").tobytes() + line

    def new(name: bytes, table: np.ndarray) -> bytes:
        line = (b"curv" + bytes(8)) * 3
        grid = bytes((nodes,) * 3).ljust(16, b"\0") + bytes((2, 0, 0, 0)) + table.astype(">u2").tobytes()
        grid += bytes(-len(grid) % 4)
        # from the back: B curves, then the table, then A curves; the matrix and its curves are left out
        places = 32, 0, 0, 32 + len(line), 32 + len(line) + len(grid)
        return name + bytes(4) + bytes((3, 3, 0, 0)) + struct.pack(">5I", *places) + line + grid + line

    words = b"Invented scanner, tables"
    if new_kind:
        text = (
            b"mluc"
            + bytes(4)
            + struct.pack(">II4sII", 1, 12, b"enUS", 2 * len(words), 28)
            + words.decode().encode("utf-16-be")
        )
        tags = {b"desc": text, b"cprt": text, b"A2B0": new(b"mAB ", to_lab), b"B2A0": new(b"mBA ", from_lab)}
    else:
        described = b"desc" + bytes(4) + struct.pack(">I", len(words) + 1) + words + bytes(79)
        tags = {
            b"desc": described,
            b"cprt": b"text" + bytes(4) + words + b"\0",
            b"A2B0": old(to_lab),
            b"B2A0": old(from_lab),
        }
    white = struct.pack(">3i", *(round(value * 65536) for value in D50))
    tags[b"wtpt"] = b"XYZ " + bytes(4) + white
    body, table, at = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI", at + len(body), b"\0\0\0\0", 0x04200000 if new_kind else 0x02400000)
    header += b"scnrRGB Lab " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + body


def video(seed: int, length: int = 20_000) -> bytes:
    """The start of an MP4 file and noise: enough to be found, nothing to be seen."""
    noise = np.random.default_rng(seed).bytes(length)
    start = b"ftypmp42" + bytes(4) + b"mp42isom"
    return struct.pack(">I", len(start) + 4) + start + struct.pack(">I4s", len(noise) + 8, b"mdat") + noise


def multi_picture(first_length: int, second_length: int, at: int) -> bytes:
    """The APP2 segment that says where the second picture of a file lies (CIPA DC-007); `at` is its own place."""
    entries = struct.pack("<IIIHH", 0x030000, first_length, 0, 0, 0)
    entries += struct.pack("<IIIHH", 0, second_length, max(0, first_length - (at + 8)), 0, 0)
    block = tiff_block([{0xB000: (7, b"0100"), 0xB001: (4, 2), 0xB002: (7, entries)}])
    return segment(0xE2, b"MPF\0" + block)


def with_second_picture(first: bytes, second: bytes, behind: bytes) -> bytes:
    """A JPEG with a second one behind its end, told of in MPF, placed after the segment that `behind` begins with."""
    at = first.index(behind)
    at += 2 + struct.unpack_from(">H", first, at + 2)[0]
    length = len(multi_picture(0, 0, 0))
    told = multi_picture(len(first) + length, len(second), at)
    return first[:at] + told + first[at:] + second


def nikon_note(preview: bytes) -> bytes:
    """A maker's note of Nikon's third kind, a TIFF of its own, with a preview and nothing else in it."""

    def block(start: int) -> bytes:
        inner = {259: (3, 6), 282: (5, 300.0), 283: (5, 300.0), 296: (3, 2), 513: (4, start), 514: (4, len(preview))}
        return tiff_block([{1: (7, b"0210"), 17: (4, inner)}], ">")

    return b"Nikon\0\2\x10\0\0" + block(len(block(0))) + preview


def primaries_to_xyz(points: tuple[float, ...]) -> np.ndarray:
    """RGB to XYZ of white, red, green and blue given as x, y."""
    white, *colours = (np.array((x / y, 1, (1 - x - y) / y)) for x, y in zip(points[::2], points[1::2], strict=True))
    matrix = np.stack(colours, 1)
    return matrix * np.linalg.solve(matrix, white)


def with_avif_property(data: bytes, kind: bytes, content: bytes) -> bytes:
    """An AVIF file of one item with a further property of it, which a viewer has to obey."""
    property_box = struct.pack(">I4s", 8 + len(content), kind) + content
    container, table = data.index(b"ipco") - 4, data.index(b"ipma") - 4
    number, at = 1, container + 8
    while at < table:
        number, at = number + 1, at + struct.unpack_from(">I", data, at)[0]
    changed = bytearray(data)
    behind = table + 19 + data[table + 18]  # of version, flags, count, item and its number of properties
    changed[table + 18] += 1
    changed[behind:behind] = bytes([0x80 | number])
    changed[table:table] = property_box
    grown = len(property_box) + 1
    for name, more in (
        (b"meta", grown),
        (b"iprp", grown),
        (b"ipco", len(property_box)),
        (b"ipma", 1),
    ):
        place = changed.index(name) - 4
        struct.pack_into(">I", changed, place, struct.unpack_from(">I", changed, place)[0] + more)
    extent = changed.index(b"iloc") + 4 + 8 + 6
    struct.pack_into(">I", changed, extent, struct.unpack_from(">I", changed, extent)[0] + grown)
    return bytes(changed)


NOTE = b"a setting that the note points to by its place in the file"


def note_of_positions(order: str = "<") -> bytes:
    """An EXIF block whose maker's note holds a position from the block's start, as Panasonic's and others do."""

    def block(at: int) -> bytes:
        directory = struct.pack(f"{order}HHHIII", 1, 1, 2, len(NOTE), at, 0)
        return exif(order, exif_more={37500: (7, b"Panasonic\0\0\0" + directory + NOTE)})

    return block(block(0).index(NOTE))


def of_several_pictures(main: bytes, others: list[tuple[int, bytes]]) -> bytes:
    """A JPEG with further pictures behind it, each of a kind, as its multi-picture segment says (CIPA DC-007)."""
    length = len(segment(0xE2, b"MPF\0" + _pictures_index([(0, 0, 0)] * (1 + len(others)))))
    at, entries = len(main) + length, [(0x030000, len(main) + length, 0)]
    for kind, picture in others:
        entries.append((kind, len(picture), at - 2 - 8))  # counted from behind the segment's mark
        at += len(picture)
    index = segment(0xE2, b"MPF\0" + _pictures_index(entries))
    return main[:2] + index + main[2:] + b"".join(picture for _, picture in others)


def _pictures_index(entries: list[tuple[int, int, int]]) -> bytes:
    packed = b"".join(struct.pack("<IIIHH", *entry, 0, 0) for entry in entries)
    return tiff_block([{0xB000: (7, b"0100"), 0xB001: (4, len(entries)), 0xB002: (7, packed)}])


VIDEO = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + struct.pack(">I", 1008) + b"mdat" + bytes(1000)
