"""Names of file formats by their first bytes."""

from __future__ import annotations

import re

JPEG, PNG, BMP, TIFF, GIF, WEBP, JPEG2000, PNM = "JPEG", "PNG", "BMP", "TIFF", "GIF", "WebP", "JPEG 2000", "PNM"
CONVERTED = (JPEG, PNG, TIFF, BMP, GIF, WEBP, JPEG2000, PNM)
_STARTS = {
    b"\xff\xd8\xff": JPEG,
    b"\x89PNG\r\n\x1a\n": PNG,
    b"BM": BMP,
    b"GIF87a": GIF,
    b"GIF89a": GIF,
    b"\0\0\0\x0cjP  \r\n\x87\n": JPEG2000,
    b"\xff\x4f\xff\x51": JPEG2000,
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"IIRO": "a camera's raw file (ORF)",
    b"IIU\0": "a camera's raw file (RW2)",
    b"FUJIFILMCCD-RAW": "a camera's raw file (RAF)",
    b"8BPS": "Photoshop (PSD)",
    b"v/1\x01": "OpenEXR",
    b"\0\0\1\0": "a Windows icon (ICO)",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x93NUMPY": "a NumPy array",
    b"PK\3\4": "a ZIP archive",
    b"Rar!\x1a\7": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "compressed with gzip",
    b"version https://git-lfs": "a Git LFS pointer; get the file itself with git lfs pull",
}
_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_PNM = re.compile(rb"P[1-6]\s")
_HTML = re.compile(rb"\s*<(!doctype html|html|head)", re.IGNORECASE)
_XML = re.compile(rb"\s*<(\?xml|svg)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")
_SAMPLE = 256  # bytes that tell text from other data
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def name_of(data: bytes) -> str:
    """Returns one of CONVERTED, or words for another format: "HEIC", "text", "no known format", ..."""
    if not data:
        return "empty"
    for start, name in _STARTS.items():
        if data.startswith(start):
            return name
    if _TIFF.match(data):
        return "a camera's raw file (CR2)" if data[8:10] == b"CR" else TIFF
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[4:8] == b"ftyp":
        return _media(data)
    if _PNM.match(data):
        return PNM
    return _text(data[:_SAMPLE])


def _media(data: bytes) -> str:
    """Name of a file in the ISO base media format (ISO/IEC 14496-12), by its brands."""
    length = min(int.from_bytes(data[:4]), _SAMPLE)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, length, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIF:
        return "HEIC"
    return "a camera's raw file (CR3)" if b"crx " in brands else "a video"


def _text(start: bytes) -> str:
    if _HTML.match(start):
        return "an HTML page, as failed downloads leave it"
    if _XML.match(start):
        return "XML or SVG"
    if _TEXT.fullmatch(start):
        return "text"
    return "only zero bytes" if not any(start) else "no known format"
