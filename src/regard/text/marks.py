"""Marks around ids: the one place that puts the special ids of text.json before, between and after texts.

>>> from regard.text.settings import TextSettings
>>> settings = TextSettings(start=(2,), ends=(3,), source_after=(3,))
>>> source_ids(settings, [7, 8]), target_ids(settings, [9])
([7, 8, 3], ([2, 9, 3], 0))
"""

from __future__ import annotations

from collections.abc import Sequence

from regard.errors import RegardError, nearest
from regard.text.settings import TextSettings

Ids = tuple[int, ...]


def source_ids(
    settings: TextSettings, ids: Sequence[int], pair: Sequence[int] | None = None, language: str = ""
) -> list[int]:
    """A source with its marks; ``pair``: the second of two texts; ``language``: the target's."""
    before, after = source_marks(settings, language)
    second = () if pair is None else (*settings.pair_between, *pair)
    return [*before, *ids, *second, *after]


def segment_ids(
    settings: TextSettings, ids: Sequence[int], pair: Sequence[int] | None = None, language: str = ""
) -> list[int]:
    """The segment, 0 or 1, of each id of ``source_ids``.

    With ``settings.segments`` it is 1 for a second text and the marks after it, else 0.
    """
    before, after = source_marks(settings, language)
    first = len(before) + len(ids)
    if pair is None:
        return [0] * (first + len(after))
    return [0] * (first + len(settings.pair_between)) + [int(settings.segments)] * (len(pair) + len(after))


def target_start(settings: TextSettings, language: str = "") -> list[int]:
    """The ids before every target: the start marks, and those of the ``language`` where it is marked there."""
    marks = language_ids(settings, language)
    return [*settings.start, *(marks if settings.language_in == "target" else ())]


def target_ids(
    settings: TextSettings, ids: Sequence[int], prompt: Sequence[int] = (), language: str = "", ended: bool = True
) -> tuple[list[int], int]:
    """A target with its marks, and how many of its first labels have no loss.

    Of the target ``full`` the model reads ``full[:-1]`` and predicts ``full[1:]``: ``ids`` and the end mark, which is
    left out unless it is ``ended``. The start and the ``prompt`` are given: what predicts them has no loss.
    """
    before = [*target_start(settings, language), *prompt]
    return [*before, *ids, *(target_end(settings) if ended else ())], unscored(len(before))


def source_marks(settings: TextSettings, language: str = "") -> tuple[Ids, Ids]:
    """The ids before and after every source; ``language``: the target's, where it is marked in the source."""
    marks = language_ids(settings, language)
    return (*settings.source_before, *(marks if settings.language_in == "source" else ())), settings.source_after


def target_end(settings: TextSettings) -> Ids:
    """The end mark that training writes and forced scores count; empty for a model without one."""
    return settings.ends[:1]


def unscored(before: int) -> int:
    """How many labels have no loss where so many given tokens stand ``before`` a target: nothing predicts the first."""
    return max(0, before - 1)


def language_ids(settings: TextSettings, language: str) -> Ids:
    """The ids of a target language; none for "". An unknown language is an error that lists the known ones."""
    known = settings.languages
    if not language or (not known and language == settings.target):
        return ()
    if language not in known:
        names = ", ".join(sorted(known)) or settings.target or "one language only"
        raise RegardError(
            f"language {language!r:.40}: this model translates into {names:.400}{nearest(language, known)}"
        )
    return known[language]


def chosen_languages(settings: TextSettings, language: str | Sequence[str] | None, count: int) -> list[str]:
    """The target language of each of ``count`` texts: ``language`` for all, or one for each.

    None or "" is text.json's own ``target``; it is an error where the model has several languages and none of its own.
    """
    given = [language or ""] * count if language is None or isinstance(language, str) else list(language)
    if len(given) != count:
        raise RegardError(f"{len(given)} languages and {count} texts: expected one for each")
    own = settings.target if settings.target in settings.languages else ""
    found = [one or own for one in given]
    if settings.languages and "" in found:
        raise RegardError(
            f"this model translates into several languages: give one of {', '.join(sorted(settings.languages)):.400}"
        )
    for one in set(found):
        language_ids(settings, one)
    return found
