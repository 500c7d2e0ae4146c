"""Images and JPEGs made for tests."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms, ImageFilter


def waves(width=640, height=480):
    """Smooth colors, different in every corner."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = [np.sin(5 * x + 2 * y), np.cos(7 * y - x), np.sin(9 * x * y + 1)]
    return Image.fromarray((127 + 100 * np.stack(channels, -1)).astype(np.uint8))


def textured(seed, size=128):
    """Image unlike any other: blurred noise of two scales."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
    rough = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size))
    return Image.blend(rough, noise.filter(ImageFilter.GaussianBlur(2)), 0.5)


def jpeg(source, **options):
    out = io.BytesIO()
    source.save(out, "JPEG", **{"quality": 95, **options})
    return out.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(float)


def psnr(first, second):
    return 10 * np.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9))


def flat_jpeg(red: int, green: int, blue: int, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options) -> bytes:
    """JPEG of a gradient around a color."""
    ramp = np.linspace(-20, 20, size[0])[None, :, None] + np.zeros((size[1], 1, 1))
    pixels = np.clip(np.array([red, green, blue]) + ramp, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


SKIN = flat_jpeg(200, 150, 130)


def mutated(data, rng):
    """Damages bytes one to four times: cut, flipped, overwritten, doubled, dropped or spliced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        length = rng.randint(1, 24)
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at:at] = b"\xff" + bytes([rng.randrange(0xC0, 0x100)])
        elif kind == 5:
            del changed[at + 1 :]
            changed += b"\xff\xd9"
        else:
            changed[at : at + length] = bytes(length)
        if not changed:
            return b""
    return bytes(changed)


def many_scans(width, height, scans):
    """Progressive JPEG of a flat grey, 4:4:4, in any number of scans up to 2,647: one coefficient and bit at a time.

    Written by hand after ITU-T T.81, with no fault that a decoder could report.
    """

    def segment(marker, body):
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    def packed(bits):
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    across, down = -(-width // 8), -(-height // 8)
    blocks = across * down
    frame = bytes([8]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + b"\1\x11\0\2\x11\0\3\x11\0"
    dc = bytes([0x00, 1, *[0] * 15, 0])  # one code of one bit: no difference
    # 15 codes of four bits: end of band for 2**n blocks and as many more as the n bits after the code say (G.1.2.2)
    ac = bytes([0x10, 0, 0, 0, 15, *[0] * 12, *(n << 4 for n in range(15))])
    out = [b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC2, frame), segment(0xC4, dc), segment(0xC4, ac)]
    out += [segment(0xDA, b"\3\1\0\2\0\3\0\0\0\0"), packed("0" * (3 * blocks))]
    bits, left = "", blocks
    while left:
        n = min(left.bit_length() - 1, 14)
        run = min(left, (2 << n) - 1)
        bits += f"{n:04b}" + (f"{run - (1 << n):0{n}b}" if n else "")
        left -= run
    band = packed(bits)
    steps = [(13, 0), *((low, low + 1) for low in range(12, -1, -1))]  # the highest bit, then one bit at a time
    order = [(c, k, low, high) for k in range(1, 64) for c in (1, 2, 3) for low, high in steps]
    for component, k, low, high in order[: scans - 1]:
        out += [segment(0xDA, bytes([1, component, 0, k, k, high << 4 | low])), band]
    return b"".join(out) + b"\xff\xd9"


def swapped_profile():
    """An sRGB profile whose red and green primaries are exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")
    for first, second in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        profile = profile.replace(first, b"????", 1).replace(second, first, 1).replace(b"????", second, 1)
    return profile


def cmyk_profile():
    """A minimal ICC v2 output profile (ICC.1:2001-04): a lut8 in which ink takes lightness linearly, K takes it all."""
    corners = [(100 - 100 * k) * (3 - c - m - y) / 3 for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    clut = b"".join(bytes([round(lightness * 2.55), 128, 128]) for lightness in corners)
    matrix = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + clut + bytes(range(256)) * 3
    lut += bytes(-len(lut) % 4)
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    description += bytes(-len(description) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"desc", description), (b"wtpt", white), (b"A2B0", lut)]
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = bytearray(128)
    struct.pack_into(">I4s", header, 0, start + len(body), b"lcms")
    header[8:12] = b"\x02\x20\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63190, 65536, 54061)
    return bytes(header) + table + body
