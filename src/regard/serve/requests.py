"""A client's request, from the fields of its body: checked, its translator chosen, its texts split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from regard.pipelines import Part, TooMuch, Translator
from regard.serve.languages import matching, ranked
from regard.serve.limits import Limits

Pair = tuple[str, str]  # source and target language
Fields = TypeVar("Fields", bound=BaseModel)


class TranslateRequest(BaseModel):
    """The fields of POST /translate. Others are ignored, as LibreTranslate does: among them ``api_key``."""

    model_config = ConfigDict(strict=True, extra="ignore")

    q: str | list[str]
    source: str = "auto"
    target: str
    format: str = "text"
    alternatives: int = Field(default=0, strict=False)  # forms have no numbers

    @property
    def texts(self) -> list[str]:
        return [self.q] if isinstance(self.q, str) else self.q


class DetectRequest(BaseModel):
    """The fields of POST /detect."""

    model_config = ConfigDict(strict=True, extra="ignore")

    q: str | list[str]


@dataclass(frozen=True)
class SplitRequest:
    """A request that can be decoded.

    ``language``: the target's; ``parts``: those of its texts; ``detected``: the source's language, if it was asked for.
    """

    translator: Translator
    language: str
    parts: list[list[Part]]
    detected: dict[str, Any] | None
    unchanged: bool = False  # the texts are in the target language already

    @property
    def sentences(self) -> int:
        return sum(bool(part.ids) for of_text in self.parts for part in of_text)


def read(kind: type[Fields], fields: Mapping[str, Any]) -> Fields:
    """The fields as an object of ``kind``; 400 with the first fault if they do not fit."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        if any(key.startswith("{") for key in fields):
            raise HTTPException(
                400, "The body was read as a form; send it with content-type: application/json"
            ) from None
        said = f"missing {where} parameter" if first["type"] == "missing" else f"{where}: {first['msg']}"
        raise HTTPException(400, f"Invalid request: {said}") from None


def check_texts(q: str | Sequence[str], limits: Limits) -> list[str]:
    """The texts, not too many of them and not too long."""
    texts = [q] if isinstance(q, str) else list(q)
    if not 1 <= len(texts) <= limits.texts:
        raise HTTPException(400, f"q: {len(texts):,} texts; expected 1 to {limits.texts}")
    if sum(map(len, texts)) > limits.characters:
        raise HTTPException(413, f"q: a request may have {limits.characters:,} characters")
    return texts


def check_options(wanted: TranslateRequest, translators: Mapping[Pair, Translator]) -> None:
    """Refuse other fields that are wrong, before the texts are split."""
    if wanted.format != "text":
        raise HTTPException(400, f"{wanted.format[:40]} format is not supported; expected text")
    most = max(translators[pair].decoding.beam for pair in candidates(wanted, translators)) - 1
    if not 0 <= wanted.alternatives <= most:
        raise HTTPException(400, f"alternatives: {str(wanted.alternatives)[:20]}; expected 0 to {most}")


def candidates(wanted: TranslateRequest, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs that the codes may mean, at least one; several where the source language is to be detected."""
    targets = matching(wanted.target, [target for _, target in pairs], written=True)
    fit = [pair for pair in pairs if pair[1] in targets]
    if wanted.source.lower() != "auto":
        sources = matching(wanted.source, [source for source, _ in fit])
        fit = [pair for code in sources[:1] for pair in fit if pair[0] == code]
    if not fit:
        has = ", ".join(f"{source} → {target}" for source, target in pairs)
        raise HTTPException(
            400, f"{wanted.source[:40]} → {wanted.target[:40]}: there is no such pair; this server has {has}"
        )
    return fit


def split(wanted: TranslateRequest, translators: Mapping[Pair, Translator], limits: Limits) -> SplitRequest:
    """Choose the translator of a request and split its texts; slow enough to be done in a thread.

    Texts that are too long are refused before they are split. Their length is counted after normalisation, which can
    make eighteen characters of one.
    """
    pairs = candidates(wanted, translators)
    detected = None
    if wanted.source.lower() == "auto":
        rows = ranked(wanted.texts, known(translators))
        surest = [row["language"] for row in rows]
        pairs = sorted(pairs, key=lambda pair: surest.index(pair[0]))
        detected = rows[0]
        if detected["confidence"] and detected["language"] in {pair[1] for pair in pairs}:
            return SplitRequest(translators[pairs[0]], pairs[0][1], [], detected, unchanged=True)
    translator, language = translators[pairs[0]], pairs[0][1]
    if sum(len(translator.tokenizer.normalize(text)) for text in wanted.texts) > limits.characters:
        raise TooMuch(f"q: a request may have {limits.characters:,} characters, after normalisation")
    parts = translator.parts(wanted.texts, most=limits.in_hand, language=language)
    return SplitRequest(translator, language, parts, detected)


def known(pairs: Iterable[Pair]) -> list[str]:
    """The languages of a server, sources first."""
    return list(dict.fromkeys([source for source, _ in pairs] + [target for _, target in pairs]))
