"""``regard evaluate``: the scores of a model or of translations on a test set, alone or against another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.common import (
    BatchTokens,
    Beam,
    Device,
    Dtype,
    Engine,
    Json,
    LengthPenalty,
    Model,
    Shortlist,
    Threads,
    open_translator,
    print_json,
    read_parallel,
    read_text,
    show,
    warn_of_line,
    write_text,
)

if TYPE_CHECKING:
    from regard.pipelines import Translator


def evaluate(
    model: Model,
    source: Annotated[str, typer.Option("--source", help="Test sentences, one a line.")],
    reference: Annotated[str, typer.Option("--reference", help="Their translations, raw and untouched.")],
    compare: Annotated[
        str, typer.Option(help="Another model, or a file of its translations: paired bootstrap of the two.")
    ] = "",
    worst: Annotated[int, typer.Option(min=0, help="Show so many of the worst sentences, by chrF.")] = 0,
    by_length: Annotated[bool, typer.Option("--by-length", help="BLEU by length of the reference.")] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Add lowercased, Moses-tokenized BLEU, as older papers print it.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the translations to this file.")] = None,
    beam: Beam = 5,
    length_penalty: LengthPenalty = None,
    batch_tokens: BatchTokens = 4096,
    engine: Engine = "regard",
    shortlist: Shortlist = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Translate a test set; print sacreBLEU and chrF with their signatures, and the reference's perplexity.

    BLEU is cased, on raw text, with sacreBLEU's zh tokenizer for Chinese targets and 13a for others.

    Example: regard evaluate runs/zh-en --source test.zh --reference test.en --compare zh-en --worst 5
    """
    from regard import evaluation

    sources, references = read_parallel(source, reference)
    translator = open_translator(model, device, dtype, threads, engine, shortlist)
    language = translator.settings.target
    search = {"beam": beam, "length_penalty": length_penalty, "batch_tokens": batch_tokens}
    hypotheses = _translate(translator, sources, search)
    if output is not None:
        write_text(output, hypotheses)

    scores = evaluation.corpus_scores(hypotheses, references, language)
    forced = translator.score(sources, references, batch_tokens=batch_tokens)
    perplexity = evaluation.perplexity(one.token_scores for one in forced)
    penalty = translator.search(beam, None, length_penalty).length_penalty
    how = f"beam {beam}, length penalty {penalty}, {'fp32' if dtype == 'auto' else dtype}"
    how += f", shortlist {shortlist}" if shortlist else ""
    report: dict[str, Any] = {"model": model, **asdict(scores), "perplexity": perplexity, "decoding": how}
    lines = [*scores.lines(), f"perplexity {perplexity:.3f} a subword of the reference", how]
    if published:
        older = evaluation.published_bleu(hypotheses, references, language)
        report["published_bleu"], report["published_signature"] = older
        lines.append(f"BLEU {older.score:.2f}   {older.signature}")
    if compare:
        other = _hypotheses_of(compare, sources, search, device, dtype)
        comparison = evaluation.paired_bootstrap(other, hypotheses, references, language)
        report["compare"] = {"with": compare, **asdict(comparison)}
        lines.append(f"{compare} → {model}: {comparison.line}")
    if by_length:
        buckets = evaluation.by_length(hypotheses, references, language)
        report["by_length"] = [bucket._asdict() for bucket in buckets]
        lines += ["", "words of the reference  sentences   BLEU  length"]
        lines += [
            f"{f'{b.low}–{b.high}':>22}  {b.sentences:>9}  {b.bleu:>5.2f}  {b.length_ratio:>6.3f}" for b in buckets
        ]
    if worst:
        found = evaluation.worst(hypotheses, references, worst)
        report["worst"] = [{**one._asdict(), "source": sources[one.number]} for one in found]
        for one in found:
            lines += ["", f"line {one.number + 1}, chrF {one.chrf:.1f}", f"  {sources[one.number]}"]
            lines += [f"  → {one.hypothesis}", f"  = {one.reference}"]
    if json:
        print_json(report)
    else:
        for line in lines:
            show(line)


def _translate(translator: Translator, sources: list[str], search: dict[str, Any]) -> list[str]:
    return [result.text for result in translator.stream(sources, warn=warn_of_line, **search)]


def _hypotheses_of(name: str, sources: list[str], search: dict[str, Any], device: str, dtype: str) -> list[str]:
    """Another system's translations: lines of a file, or those of a model."""
    from regard.errors import RegardError

    if Path(name).is_file():
        lines = read_text(name)
        if len(lines) != len(sources):
            raise RegardError(f"{name} has {len(lines):,} lines, expected {len(sources):,}, as many as the test set")
        return lines
    return _translate(open_translator(name, device, dtype), sources, search)
