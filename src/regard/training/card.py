"""The model card (README.md of a run): its data, its scores, and how to train it again."""

from __future__ import annotations

import platform
from collections import defaultdict
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
    data, options, task = config.data, registry.to_dict(session.options), session.task
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    described = ", ".join(f"{key} {_plain(value)}" for key, value in options.items() if key != "architecture")
    best, examples = measured[chosen], session.validation.count
    card = task.card(config, session.loaded)
    figures = {key: how for key, how in task.figures.items() if any(key in values for values in measured.values())}
    lines = [
        f"# {card.title}",
        "",
        f"Architecture {options['architecture']} with {parameters:,} parameters, trained with regard {__version__}.",
        "",
        "```",
        card.command.format(run=quote(str(session.run))),
        "```",
        "",
        "## Figures",
        "",
        f"On the validation corpus ({examples:,} {card.examples} of {named(data.valid)}); the weights were chosen "
        "on it, so that a test set gives the fairer figure: `regard evaluate`.",
        "",
        f"| weights | {' | '.join(name.removeprefix('validation ') for name, _ in figures.values())} |",
        f"| --- |{' --- |' * len(figures)}",
        *(_row(name + " (kept)" * (name == chosen), values, figures) for name, values in measured.items()),
        "",
        card.note.format_map(defaultdict(lambda: "not measured", best)),
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


def _row(name: str, values: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    cells = [f"{values[key]:{form}}" if key in values else "–" for key, (_, form) in figures.items()]
    return f"| {name} | {' | '.join(cells)} |"


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
