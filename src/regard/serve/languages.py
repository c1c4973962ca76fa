"""Language codes as clients write them, and which language a text is in."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

#: English names of languages. A language without one is called by its code.
NAMES = {
    "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish",
    "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish",
    "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "nb": "Norwegian",
    "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sq": "Albanian", "sv": "Swedish", "th": "Thai", "tl": "Tagalog", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
TRADITIONAL = ("hant", "tw", "hk", "mo")
DETECTED = 2_000  # characters of a text that are looked at


def name(code: str) -> str:
    return NAMES.get(base(code), code)


def base(code: str) -> str:
    """The language alone.

    >>> [base(code) for code in ("ZH", "zh-Hans", "en_US", "zt")]
    ['zh', 'zh', 'en', 'zh']
    """
    first = code.strip().lower().replace("_", "-").partition("-")[0]
    return {"zt": "zh", "cmn": "zh", "pb": "pt", "iw": "he", "no": "nb"}.get(first, first)


def traditional(code: str) -> bool:
    """Whether a code asks for Chinese in traditional characters (LibreTranslate's own name for it is zt)."""
    first, *rest = code.strip().lower().replace("_", "-").split("-")
    return first == "zt" or (base(first) == "zh" and any(part in TRADITIONAL for part in rest))


def matching(code: str, known: Iterable[str], *, written: bool = False) -> list[str]:
    """The known codes that a client's code means: the one that is written so, else all of the same language.

    ``written``: the text is to be written in it, so that traditional and simplified characters are not the same.

    >>> matching("zh-CN", ["zh", "en"]), matching("zh-Hant", ["zh"]), matching("zh-Hant", ["zh"], written=True)
    (['zh'], ['zh'], [])
    """
    known = list(dict.fromkeys(known))
    if same := [each for each in known if each.lower().replace("_", "-") == code.strip().lower().replace("_", "-")]:
        return same
    alike = [each for each in known if base(each) == base(code)]
    same = [each for each in alike if traditional(each) == traditional(code)]
    return same if written else same + [each for each in alike if each not in same]


def ranked(texts: Sequence[str], codes: Sequence[str]) -> list[dict[str, Any]]:
    """These languages, surest first, with the ``confidence`` in per cent that the texts are in them.

    For a text in no known language every confidence is 0.
    """
    text = "\n".join(texts)[:DETECTED]
    detector = _detector()
    even = 1.5 / len(detector.labels)  # a little more than each language gets for a text that fits none
    scores = {base(label): score for label, score in detector.rank(text) if score > even}
    surest = sorted(dict.fromkeys(codes), key=lambda code: -scores.get(base(code), 0.0))
    return [{"confidence": round(100 * scores.get(base(code), 0.0)), "language": code} for code in surest]


@functools.cache
def _detector() -> Any:
    """py3langid, limited to the languages in ``NAMES``: it takes short texts for others that share their words."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages([label for label in detector.labels if base(label) in NAMES])
    return detector
