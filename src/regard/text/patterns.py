"""The regular expressions that a ``tokenizer.json`` may hold: a closed list.

Some regular expressions take time that doubles with each character of a text, and a model's files may come from anyone.
So a pattern must have the shape of regard's own (its characters differ with the edition of Unicode) or equal one of
those below as a string.
"""

from __future__ import annotations

import base64
import hashlib

from regard.text.words import our_start, our_word

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (  # three steps
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPLITS = frozenset((GPT_2, LLAMA_3, QWEN_2, *DEEPSEEK_V3))
RUNS = frozenset((" {2,}", r"\s+"))  # runs of spaces, which published normalizers replace (XLM-R, CLIP)

# SHA-256 of the named maps of characters of SentencePiece 0.1.99 to 0.2.1.
CHARSMAPS = frozenset(
    (
        "51d3684747b35ef99cd4802f37cc1ee0c6bec4d060814f774efb1066d3c167f2",  # nmt_nfkc
        "557b5397b1133d8abb62f7923e5b53ee496d3e36b9f63fd42625077c33688a14",  # nfkc
        "6cec34e8016fd0d0a2da28b60b00e36b19a275df83786bf6b494bd033c708f83",  # nmt_nfkc_cf
        "b30e4085ba1fad56d2401f4612419b6b3b42c5adc1e04f3aa1806399895d6bdd",  # nfkc_cf
        "79372c41389c2b9b29bc171017ab5400e352debd686b02670a42bec709015074",  # the same four in 0.2.1
        "52f11028ff8a7df3e009d94a8b6a54d4a8a17132efb4ccc1c9a0a41e432bd91e",
        "22c292c76f503795f30c85d79d30a7f572fff4f49e00392d2d60f4f93e941a1e",
        "60833ec11201446659c3549c183b18f024c4007628cc6b3a4e91ae007697b826",
    )
)


def splits(pattern: str) -> bool:
    """Whether a Split may use this pattern."""
    # Within brackets a line break itself means the same as \n.
    return pattern.replace("\r", r"\r").replace("\n", r"\n") in SPLITS or our_word(pattern)


def replaces(pattern: str) -> bool:
    """Whether a Replace may use this pattern."""
    return pattern in RUNS or our_start(pattern)


def charsmap(value: object) -> bool:
    """Whether a map of characters, in base64, is one of ``CHARSMAPS``: the library panics on damaged ones."""
    if not isinstance(value, str) or len(value) > 1 << 20:
        return False
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return hashlib.sha256(data).hexdigest() in CHARSMAPS
