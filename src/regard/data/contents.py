"""The kind of a file by its first bytes: compressed, text in another encoding, or no text."""

from __future__ import annotations

import codecs
import re
import shlex
import unicodedata

HEAD = 1 << 16  # bytes at the beginning of a file that decide

COMPRESSIONS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "zstd": re.compile(rb"(\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"),
}

# Formats that are not read: first bytes, name, how to get their text.
_FOREIGN = (
    (rb"PK\x03\x04.{0,65000}word/", "a Word document (.docx)", "save it as plain text in UTF-8"),
    (rb"PK\x03\x04.{0,65000}xl/", "an Excel workbook (.xlsx)", "save it as CSV in UTF-8"),
    (rb"PK\x03\x04.{0,65000}ppt/", "a PowerPoint file (.pptx)", "save it as plain text in UTF-8"),
    (
        rb"PK\x03\x04.{26,60}mimetypeapplication/(vnd\.oasis|epub)",
        "an OpenDocument or EPUB file",
        "save it as plain text",
    ),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive", "unpack it with unzip {path} and name the file inside"),
    (rb".{257}ustar", "a tar archive", "unpack it with tar -xf {path} and name the file inside"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x {path} and name the file inside"),
    (rb"Rar!\x1a\x07", "a RAR archive", "unpack it with unrar x {path} and name the file inside"),
    (rb"\x1f[\x9d\xa0]", "a file of compress (.Z)", "unpack it with uncompress {path}"),
    (rb"\x04\x22\x4d\x18", "an LZ4 file", "unpack it with lz4 -d {path}"),
    (rb"LZIP\x01", "an lzip file", "unpack it with lzip -d {path}"),
    (rb"%PDF-\d", "a PDF document", "take its text out, for example with pdftotext {path}"),
    (rb"\{\\rtf", "a document in Rich Text Format", "save it as plain text in UTF-8"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.doc, .xls, .ppt)", "save it as plain text or CSV"),
    (rb"PAR1[\x00-\x1f]", "a Parquet file", "convert it to JSONL or TSV"),
    (rb"(ARROW1\0|\xff\xff\xff\xff.{3}\0)", "an Arrow file", "convert it to JSONL or TSV"),
    (rb"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    (rb"(\x89PNG|\xff\xd8\xff|GIF8[79]a.{4}[\x80-\xff])", "a picture", "name a text file"),
)
_FOREIGN_BYTES = tuple((re.compile(start, re.DOTALL), what, advice) for start, what, advice in _FOREIGN)

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32LE"),
    (codecs.BOM_UTF32_BE, "UTF-32BE"),
    (codecs.BOM_UTF16_LE, "UTF-16LE"),
    (codecs.BOM_UTF16_BE, "UTF-16BE"),
)

# Characters that make up most of any text; the wrong encoding gives rarer ones.
_COMMON = frozenset(map(chr, (10, *range(32, 127)))) | frozenset(
    "，。、！？：；（）「」“”的一是不了在人有我他这這个個们們中来來上大为為和国國你到说說时時要就出会會也她"
)


def compression(head: bytes) -> str:
    """The compression of a file that begins with ``head``: gzip, xz, bzip2, zstd, or "" for none."""
    return next((name for name, start in COMPRESSIONS.items() if start.match(head)), "")


def foreign(head: bytes, path: str) -> str:
    """The name of a format that is not read, and how to get its text; "" for what may be text."""
    for start, what, advice in _FOREIGN_BYTES:
        if start.match(head):
            return f"is {what}, not text: {advice.format(path=shlex.quote(path))}"
    return ""


def not_utf8(head: bytes) -> str:
    """Why a file that begins with ``head`` can't be UTF-8 text: its encoding, or that it is binary; "" if it can.

    A NUL or a few wrong bytes in UTF-8 are not reported here but by the reader of the line.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return f"is {name} text; {iconv(name)}"
    control = sum(head.count(byte) for byte in range(9))  # in UTF-16 every second byte of Latin text is small
    few = control < 0.3 * len(head) or len(head) < 4
    if b"\0" not in head or (few and _decodes(head, "utf-8") is not None):
        return ""
    if wide := _wide(head):
        return f"is {wide} text without a byte order mark; {iconv(wide)}"
    return f"is not text: it has NUL bytes, and begins with {head[:8].hex(' ')}"


def iconv(encoding: str) -> str:
    """The command that converts a file to UTF-8."""
    return f"convert it with iconv -f {encoding} -t UTF-8"


def advice(sample: bytes) -> str:
    """Advice about bytes that are not UTF-8."""
    text = sample.decode(errors="replace")
    wrong = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) > 4 * wrong:
        return "the rest of it is: correct the line, or leave such bytes out with iconv -c -f UTF-8 -t UTF-8"
    return f"convert the file, for example with iconv -f {_legacy(sample)} -t UTF-8"


def _wide(head: bytes) -> str:
    """The UTF-16 or UTF-32 encoding that gives most common characters; "" if none fits."""
    best, most = "", 0
    for name in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        text = _decodes(head, name) or ""
        found = sum(character in _COMMON for character in text)
        strange = sum(
            unicodedata.category(character) in ("Cc", "Cn", "Co") for character in text if character not in "\t\r\n"
        )
        # In any language a fiftieth of a text are line ends, spaces and the commonest characters.
        if found > most and found >= len(text) / 50 and strange <= found / 2:
            best, most = name, found
    return best


def _legacy(sample: bytes) -> str:
    """The likeliest encoding of a text that is not UTF-8."""
    if b"\0" in sample and (wide := _wide(sample)):
        return wide
    # In Windows-1252 a letter like é is one byte ≥ 0x80 among ASCII; GB18030 and Big5 use such bytes in pairs.
    alone = re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", sample)
    if len(alone) > 2 / 3 * sum(byte >= 0x80 for byte in sample):
        return "WINDOWS-1252"
    common = {
        name: sum(character in _COMMON for character in _decodes(sample, name) or "") for name in ("GB18030", "BIG5")
    }
    return max(common, key=lambda name: common[name])


def _decodes(sample: bytes, encoding: str) -> str | None:
    """The text of bytes that may end inside a character; None if they are not of this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None
