"""The model card (README.md of a run): its data, its scores, and how to train it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch

from regard import __version__
from regard.data.corpus import named
from regard.models import registry
from regard.training.progress import duration

if TYPE_CHECKING:
    from regard.training.session import Session


def model_card(session: Session, chosen: str, measured: Mapping[str, Mapping[str, Any]], stopped: str) -> str:
    """The card as Markdown; ``measured`` holds each candidate's scores on the validation corpus."""
    config, position, prepared = session.config, session.position, session.prepared
    data, options = config.data, registry.to_dict(session.options)
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    described = ", ".join(f"{key} {_plain(value)}" for key, value in options.items() if key != "architecture")
    best, sentences = measured[chosen], len(session.validator.references)
    lines = [
        f"# {data.source} → {data.target}",
        "",
        f"A {options['architecture']} with {parameters:,} parameters, trained with regard {__version__}.",
        "",
        "```",
        f"regard translate {quote(str(session.run))} input.{data.source}",
        "```",
        "",
        "## Figures",
        "",
        f"On the validation corpus ({sentences:,} sentences of {named(data.valid)}); the weights were chosen "
        "on it, so that a test set gives the fairer figure: `regard evaluate`.",
        "",
        "| weights | loss | perplexity | BLEU |",
        "| --- | --- | --- | --- |",
        *(_row(name + " (kept)" * (name == chosen), values) for name, values in measured.items()),
        "",
        f"BLEU: sacreBLEU `{best.get('bleu_signature', 'not measured')}`, beam {config.decoding.beam}, length penalty "
        f"{config.decoding.length_penalty}. Loss: nats a subword, without label smoothing.",
        "",
        "## Data",
        "",
        *(f"- {named(entry)}" for entry in data.train),
        "",
        *(f"{line}." for line in prepared.report.lines()),
        "",
        f"{prepared.tokenizer.size:,} {data.tokenizer} subwords"
        + ("" if prepared.target_tokenizer is prepared.tokenizer else f" and {prepared.target_tokenizer.size:,}")
        + f"; corpus and tokenizer `{prepared.fingerprint[:16]}`.",
        "",
        "## Training",
        "",
        f"{position.step:,} updates, {position.target_tokens:,} target tokens, {duration(session.pace.elapsed())} on "
        f"{_machine(session)} (seed {config.seed}; stopped by {stopped}; {position.skipped} updates skipped).",
        "",
        f"Model: {described}.",
        "",
        "`run.toml` holds the whole configuration; to train it again:",
        "",
        "```",
        f"regard train run.toml --run NEW-RUN --device {session.device.type}",
        "```",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, values: Mapping[str, Any]) -> str:
    bleu = f"{values['bleu']:.2f}" if "bleu" in values else "–"
    return f"| {name} | {values['loss']:.4f} | {values['perplexity']:.2f} | {bleu} |"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if key != "kind")
        return f"{value['kind']} ({rest})" if rest else str(value["kind"])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _machine(session: Session) -> str:
    if session.device.type == "cuda":
        return torch.cuda.get_device_name(session.device)
    kind = session.environment.get("cpu") or platform.machine()
    return f"{torch.get_num_threads()} threads of {kind}, PyTorch {torch.__version__}"
