"""The scores of a translation model on a test set, alone or compared with another system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.cli.common import (
    check_search,
    files_of_model,
    open_translator,
    read_parallel,
    read_text,
    warn_of_line,
    write_text,
)
from regard.cli.report import Part, print_parts
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.pipelines import Translator


def evaluate_texts(
    model: str,
    source: str,
    reference: list[str],
    *,
    compare: str,
    worst: int,
    by_length: bool,
    published: bool,
    output: Path | None,
    beam: int,
    length_penalty: str | None,
    batch_tokens: int,
    backend: str,
    shortlist: str,
    device: str,
    dtype: str,
    threads: int,
    json: bool,
) -> None:
    """Translate a test set and print the scores of the translations."""
    from regard import evaluation
    from regard.outputs import check_output

    sources, references = _test_set(source, reference)
    if output is not None:
        models = [*files_of_model(model), *files_of_model(compare)]
        check_output(output, (source, *reference, compare, shortlist, *models))
    if published:
        evaluation.moses_tokenizer()  # raises if it is not installed
    check_search(backend, shortlist, beam, length_penalty=length_penalty)
    other = _other(compare, len(sources), device, dtype) if compare else []
    translator = open_translator(model, device, dtype, threads, backend, shortlist)
    search = {"beam": beam, "length_penalty": length_penalty, "batch_tokens": batch_tokens}
    hypotheses = _translate(translator, sources, search)
    failed = _written(output, hypotheses)  # raised after the scores are printed

    how = _settings(translator, beam, length_penalty, dtype, shortlist)
    test = hypotheses, references, translator.settings.target
    parts: list[Callable[[], Part]] = [
        lambda: _scores(*test),
        lambda: _perplexity(translator, sources, references, batch_tokens, how),
    ]
    if published:
        parts.append(lambda: _published(*test))
    if compare:
        parts.append(lambda: _comparison(*test, _hypotheses_of(other, sources, search), compare, model))
    if by_length:
        parts.append(lambda: _by_length(*test))
    if worst:
        parts.append(lambda: _worst(hypotheses, references, sources, worst))
    print_parts({"model": model}, parts, json)
    if failed is not None:
        raise failed


def _test_set(source: str, reference: list[str]) -> tuple[list[str], list[list[str]]]:
    """The lines of the test sentences and of each reference; an error if a file has no text."""
    sources, *references = read_parallel(source, *reference)
    for name, lines in zip((source, *reference), (sources, *references), strict=True):
        if not any(line.strip() for line in lines):
            raise RegardError(f"{name}: none of its {len(lines):,} lines has text: there is nothing to score")
    return sources, references


def _settings(translator: Translator, beam: int, length_penalty: str | None, dtype: str, shortlist: str) -> str:
    """The settings of decoding, as they are printed."""
    penalty = translator.search(beam, None, length_penalty).length_penalty
    listed = f", shortlist {shortlist}" if shortlist else ""
    return f"beam {beam}, length penalty {penalty}, {'fp32' if dtype == 'auto' else dtype}{listed}"


def _translate(translator: Translator, sources: list[str], search: dict[str, Any]) -> list[str]:
    return [result.text for result in translator.stream(sources, warn=warn_of_line, **search)]


def _written(output: Path | None, hypotheses: list[str]) -> RegardError | None:
    """Write the translations; returns the error if that fails."""
    try:
        if output is not None:
            write_text(output, hypotheses)
    except RegardError as error:
        return error
    return None


def _other(name: str, count: int, device: str, dtype: str) -> list[str] | Translator:
    """The other system: a loaded model, or the lines of a file, as many as in the test set."""
    if not Path(name).exists() or Path(name).is_dir():
        return open_translator(name, device, dtype)
    lines = read_text(name)
    if len(lines) != count:
        raise RegardError(f"{name} has {len(lines):,} lines, expected {count:,}, as many as the test set")
    return lines


def _hypotheses_of(other: list[str] | Translator, sources: list[str], search: dict[str, Any]) -> list[str]:
    return other if isinstance(other, list) else _translate(other, sources, search)


def _scores(hypotheses: list[str], references: list[list[str]], language: str) -> Part:
    from regard.evaluation import corpus_scores

    scores = corpus_scores(hypotheses, references, language)
    return asdict(scores), scores.lines()


def _perplexity(
    translator: Translator, sources: list[str], references: list[list[str]], batch_tokens: int, how: str
) -> Part:
    """The perplexity of all references together."""
    from regard.evaluation import perplexity

    forced = [one for lines in references for one in translator.score(sources, lines, batch_tokens=batch_tokens)]
    found = perplexity(one.token_scores for one in forced)
    return {"perplexity": found, "decoding": how}, [f"perplexity {found:.3f} a subword of the reference", how]


def _published(hypotheses: list[str], references: list[list[str]], language: str) -> Part:
    from regard.evaluation import published_bleu

    older = published_bleu(hypotheses, references, language)
    keys = {"published_bleu": older.score, "published_signature": older.signature}
    return keys, [f"BLEU {older.score:.2f}   {older.signature}"]


def _comparison(
    hypotheses: list[str], references: list[list[str]], language: str, others: list[str], compare: str, model: str
) -> Part:
    from regard.evaluation import paired_bootstrap

    found = paired_bootstrap(others, hypotheses, references, language)
    return {"compare": {"with": compare, **asdict(found)}}, [f"{compare} → {model}: {found.line}"]


def _by_length(hypotheses: list[str], references: list[list[str]], language: str) -> Part:
    from regard.evaluation import by_length

    buckets = by_length(hypotheses, references, language)
    lines = ["", "words of the reference  sentences   BLEU  length"]
    lines += [f"{f'{b.low}–{b.high}':>22}  {b.sentences:>9}  {b.bleu:>5.2f}  {b.length_ratio:>6.3f}" for b in buckets]
    return {"by_length": [bucket._asdict() for bucket in buckets]}, lines


def _worst(hypotheses: list[str], references: list[list[str]], sources: list[str], count: int) -> Part:
    from regard.evaluation import worst

    found = worst(hypotheses, references, count)
    lines = []
    for one in found:
        lines += [
            "",
            f"line {one.number + 1}, chrF {one.chrf:.1f}",
            f"  {sources[one.number]}",
            f"  → {one.hypothesis}",
        ]
        lines += [f"  = {reference}" for reference in (one.reference, *one.others)]
    return {"worst": [{**one._asdict(), "source": sources[one.number]} for one in found]}, lines
