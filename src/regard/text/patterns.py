"""The regular expressions of a ``tokenizer.json`` that the ``tokenizers`` library gets to see: a closed list.

Some regular expressions take time that doubles with each character of a text, and whoever writes a model's files
chooses them. So a pattern must be one of ours (by its shape: its characters differ with the edition of Unicode) or one
of those below, compared as strings.
"""

from __future__ import annotations

from regard.text.words import our_start, our_word

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (  # one after another
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPLITS = frozenset((GPT_2, LLAMA_3, QWEN_2, *DEEPSEEK_V3))
RUNS = frozenset((" {2,}", r"\s+"))  # what published normalizers replace: runs of spaces (XLM-R, CLIP)


def splits(pattern: str) -> bool:
    """Whether a text may be cut by this pattern."""
    # Some files hold the line break itself where others write \n: within brackets they mean the same.
    return pattern.replace("\r", r"\r").replace("\n", r"\n") in SPLITS or our_word(pattern)


def replaces(pattern: str) -> bool:
    """Whether what this pattern finds may be replaced."""
    return pattern in RUNS or our_start(pattern)
