"""The special ids of a published folder as our text settings, and back.

Marks around a text come from the post-processor of ``tokenizer.json`` (post_processor.py), else from
``tokenizer_config.json``; start, ends and suppressed ids from ``generation_config.json``, else from ``config.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from regard import limits
from regard.directory import CONFIG, TOKENIZER
from regard.errors import RegardError
from regard.interop.post_processor import Ids, Marks, read_marks
from regard.text.settings import TextSettings

Values = Mapping[str, Any]

GENERATION, TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"
SPECIALS_MAP = "special_tokens_map.json"
GENERATING = ("translation", "language_model")  # tasks whose models produce ids


@dataclass(frozen=True)
class ParsedFiles:
    """The files of a folder that say what its ids mean, parsed; {} for one that the folder lacks.

    ``number``: token → its id, or None where the vocabulary lacks the token.
    """

    config: Values
    generation: Values = field(default_factory=dict)
    tokenizer: Values = field(default_factory=dict)
    tokenizer_config: Values = field(default_factory=dict)
    specials_map: Values = field(default_factory=dict)
    number: Callable[[str], int | None] = lambda token: None

    def value(self, key: str) -> tuple[Any, str]:
        """A value, and the file and key that hold it; generation_config.json is asked before config.json."""
        if self.generation.get(key) is not None:
            return self.generation[key], f"{GENERATION}: {key}"
        return self.config.get(key), f"{CONFIG}: {key}"

    def ids(self, key: str) -> Ids:
        """One id or several; () where no file says any."""
        value, where = self.value(key)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in listed):
            raise RegardError(f"{where} = {value!r:.60}: expected an id, or a list of ids")
        return tuple(listed)

    def one(self, key: str) -> int | None:
        """One id; None where no file says any."""
        found = self.ids(key)
        if len(found) > 1:
            raise RegardError(f"{self.value(key)[1]} = {list(found)!r:.60}: expected one id")
        return found[0] if found else None

    def token(self, role: str) -> int | None:
        """The id of the token with a role, such as "mask_token"; None where no file names one."""
        for values, file in ((self.tokenizer_config, TOKENIZER_CONFIG), (self.specials_map, SPECIALS_MAP)):
            name = values.get(role)
            name = name.get("content") if isinstance(name, dict) else name
            if name is None:
                continue
            if not isinstance(name, str):
                raise RegardError(f"{file}: {role} = {name!r:.60}: expected a token")
            return self.number(name)
        return None


def settings_from(task: str, longest: int, found: ParsedFiles) -> TextSettings:
    """Our text settings of a model with a ``task``; ``longest``: how many positions it has."""
    marks, ends = _marks(task, found), found.ids("eos_token_id")
    _check_forced_end(task, ends, found)
    start, around = _start(task, marks, ends, found), Marks() if task == "language_model" else marks
    pad, unk = found.one("pad_token_id"), _unknown(found)
    pad = found.token("pad_token") if pad is None else pad
    pad = (ends[0] if ends else 0) if pad is None else pad  # which id fills a batch up changes no output
    penalty = found.value("length_penalty")[0]
    return TextSettings(
        pad=pad,
        unk=pad if unk is None else unk,
        start=start,
        ends=ends if task in GENERATING else (),
        source_before=around.before,
        source_after=around.after,
        pair_between=around.between,
        segments=marks.segments and task not in GENERATING,
        mask=None if task in GENERATING else found.token("mask_token"),
        suppressed=tuple(_suppressed(found)),
        suppressed_first=found.ids("begin_suppress_tokens"),
        normalize=(),
        max_length=_max_length(longest, marks, found),
        length_penalty=f"power:{_number(penalty):g}",
    )


def _start(task: str, marks: Marks, ends: Ids, found: ParsedFiles) -> Ids:
    """The ids before every target."""
    if task == "language_model":
        if not set(marks.after) <= set(ends):
            raise RegardError(f"{TOKENIZER}: post_processor: marks after a text, and this model continues texts")
        return marks.before
    if task != "translation":
        return ()
    first = found.one("decoder_start_token_id")
    if first is None:
        raise RegardError(f"{CONFIG} has no 'decoder_start_token_id'")
    return first, *found.ids("forced_bos_token_id")


def _check_forced_end(task: str, ends: Ids, found: ParsedFiles) -> None:
    """Refuse an end that is forced at the limit of an output where ours is another, or is not forced.

    A translator's search (``Search.stopping`` exact, the default) allows end tokens alone there, too; a sample or the
    beam of a language model ends at its limit without one.
    """
    file, values = (GENERATION, found.generation) if found.generation else (CONFIG, found.config)
    value = values.get("forced_eos_token_id")  # as in transformers, config.json counts only without the other file
    if value is None or task not in GENERATING:
        return
    where = f"{file}: forced_eos_token_id = {value!r:.60}"
    if task != "translation":
        raise RegardError(f"{where}: regard ends an output of a language model at its limit without it: expected null")
    forced = value if isinstance(value, list) else [value]
    if any(each not in ends for each in forced) or any(each not in forced for each in ends):
        raise RegardError(f"{where}: expected null or the end tokens, {list(ends)!r:.60}")


def _max_length(longest: int, marks: Marks, found: ParsedFiles) -> int:
    """How many ids of a text there is room for beside the marks: by the positions, and by the tokenizer's limit."""
    around = len(marks.before) + len(marks.after)
    said = found.tokenizer_config.get("model_max_length")
    if isinstance(said, int) and not isinstance(said, bool) and said > around:
        longest = min(longest, said)
    return max(1, min(longest - around, limits.LENGTH))


def _number(penalty: Any) -> float:
    if penalty is None:
        return 1.0
    if not isinstance(penalty, int | float) or isinstance(penalty, bool):
        raise RegardError(f"length_penalty = {penalty!r:.40}: expected a number")
    return float(penalty)


def _suppressed(found: ParsedFiles) -> Iterator[int]:
    value, where = found.value("bad_words_ids")
    for ids in value or []:
        if not isinstance(ids, list) or len(ids) != 1:
            raise RegardError(f"{where} = {value!r:.60}: expected single ids; sequences cannot be suppressed")
        yield ids[0]
    yield from found.ids("suppress_tokens")
    for key in ("forced_decoder_ids", "sequence_bias"):
        value, where = found.value(key)
        if value:
            raise RegardError(f"{where} = {value!r:.60}: regard does not decode with it")


def _unknown(found: ParsedFiles) -> int | None:
    model = found.tokenizer.get("model") or {}
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    return found.number(model["unk_token"]) if isinstance(model.get("unk_token"), str) else found.token("unk_token")


def _marks(task: str, found: ParsedFiles) -> Marks:
    """The marks that the folder says; where it says none, those that all models of the task have."""
    marks = read_marks(found.tokenizer.get("post_processor"), segments=task not in GENERATING)
    if marks is not None:
        return marks
    if task not in GENERATING:
        first, last = found.token("cls_token"), found.token("sep_token")
        after = () if last is None else (last,)
        return Marks(() if first is None else (first,), after, after, segments=bool(after))
    first, last = found.token("bos_token"), found.token("eos_token")
    first = found.one("bos_token_id") if first is None else first
    last = next(iter(found.ids("eos_token_id")), None) if last is None else last
    add_first, add_last = (found.tokenizer_config.get(key) for key in ("add_bos_token", "add_eos_token"))
    if task == "language_model":
        # Without a tokenizer the configuration alone says that there is a first token.
        add_first, add_last = (add_first if found.tokenizer else True), False
    return Marks(
        before=(first,) if add_first and first is not None else (),
        after=(last,) if add_last is not False and last is not None else (),
    )


def positions_for(settings: TextSettings, task: str) -> int:
    """How many positions the longest text takes, with its marks."""
    around = settings.start if task == "language_model" else (*settings.source_before, *settings.source_after)
    return settings.max_length + len(around)


def config_ids(settings: TextSettings, task: str) -> dict[str, Any]:
    """The special ids of their ``config.json``."""
    found: dict[str, Any] = {"pad_token_id": settings.pad}
    if task == "translation":
        found["decoder_start_token_id"] = settings.start[0]
    if task == "language_model":
        found["bos_token_id"] = settings.start[0] if settings.start else None
    if task in GENERATING:
        found["eos_token_id"] = settings.ends[0] if len(settings.ends) == 1 else list(settings.ends) or None
    return found


def generation_config(settings: TextSettings, task: str) -> dict[str, Any]:
    """Their ``generation_config.json``; a setting that it cannot hold raises."""
    most = 2 if task == "translation" else 1
    if len(settings.start) > most or (task == "translation" and not settings.start):
        raise RegardError(f"start = {list(settings.start)!r:.60}: this format holds {most} ids before a target")
    if settings.languages:
        raise RegardError("languages: this format holds a model of one target language")
    found = config_ids(settings, task)
    if settings.start[1:]:
        found["forced_bos_token_id"] = settings.start[1]
    if settings.suppressed:
        found["bad_words_ids"] = [[token] for token in settings.suppressed]
    if settings.suppressed_first:
        found["begin_suppress_tokens"] = list(settings.suppressed_first)
    return found
