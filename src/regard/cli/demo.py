"""``regard demo``: translates with the packaged model, draws its attention, then trains a model on this machine."""

from __future__ import annotations

import dataclasses
import importlib.resources
import lzma
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard import limits
from regard.cli.common import Device, open_translator
from regard.config import Config, read_config
from regard.errors import RegardError
from regard.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from regard.pipelines import Translator
    from regard.training.finish import RunResult

# The sentences of both parts; their translations are not stored, the model's output is printed.
SENTENCES = (
    "我爱机器学习。",
    "你叫什么名字？",
    "今天天气很好，我们去公园吧。",
    "他昨天在图书馆看了三个小时的书。",
    "我不知道她什么时候回来。",
    "這本書比那本書便宜得多。",
    "如果明天下雨，我就待在家里。",
)
LOOKED_AT = 0  # index of the sentence whose attention is drawn
# A small model that learns fast; half of its vocabulary are single characters of the 25,000 sentences.
MODEL = {"architecture": "transformer", "width": 192, "encoder_layers": 3, "decoder_layers": 3, "heads": 4}
MODEL |= {"feedforward": 384, "order": "pre", "dropout": 0.1}
TRAINING = {"batch_tokens": 1024, "learning_rate": 0.003, "warmup_steps": 150, "validate_every": 100, "save_every": 500}
TRAINING |= {"log_every": 25, "samples": 2, "average": 3, "keep": 3}
DATA = {"source": "zh", "target": "en", "vocabulary": 6000, "normalize": ["nfc", "simplified"], "remove_overlap": True}


def demo(
    minutes: Annotated[
        float, typer.Option(max=limits.ANY_NUMBER, help="Training time of the second part; 0 leaves it out.")
    ] = 3.0,
    run: Annotated[str, typer.Option("--run", "-o", help="Folder of the trained model.")] = "runs/demo",
    model: Annotated[str, typer.Option(help="Model of the first part: a packaged name or directory.")] = "zh-en",
    seed: Annotated[int, typer.Option(min=0, max=limits.SEED, help="Seed of the training.")] = 1,
    dev: Annotated[
        int, typer.Option(min=1, max=1000, help="Sentences of dev on which the new model is scored.")
    ] = 1000,
    device: Device = "auto",
) -> int:
    """Translate with the packaged model, draw its attention, train a model on this machine, compare.

    The second part takes --minutes on the packaged corpus (Tatoeba, 25,075 pairs) and leaves a model in --run.

    Example: regard demo --minutes 10
    """
    from rich.console import Console

    from regard.outputs import check_output

    console = Console(highlight=False, soft_wrap=True)
    folder = Path(run)
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise RegardError(f"{run}: expected a folder for the run, and this is the root of all")
    picture = named.with_name(named.name + "-attention.png")
    check_output(picture)
    _packaged(console, model, device, picture)
    if minutes <= 0:
        _next(console, model, None)
        return 0
    result = _train(console, folder, configuration(minutes, seed, dev), device)
    if result.stopped == "interrupted":
        return 130
    own = open_translator(str(folder), device, "auto")
    _say(console, f"\nWhat it says after {minutes:g} minutes:")
    _translate(console, own, SENTENCES)
    _score(console, own, dev)
    _next(console, model, folder)
    return 0


def _packaged(console: Console, model: str, device: str, picture: Path) -> None:
    """Translate the sentences, and draw the attention of one in the terminal and into a file."""
    from regard.draw.picture import write
    from regard.draw.terminal import TerminalMap
    from regard.look.attention import look_at

    _say(console, f"1. The packaged model {model} translates:", style="bold")
    translator = open_translator(model, device, "auto")
    _translate(console, translator, SENTENCES)
    _, attention = look_at(translator, SENTENCES[LOOKED_AT])
    _say(console, "\nWhat each word it wrote looked at:")
    console.print(TerminalMap(attention), soft_wrap=False)
    write(attention, picture)
    _say(console, f"The same as a picture: {picture}")


def _train(console: Console, folder: Path, config: Config, device: str) -> RunResult:
    """Train on the packaged corpus with the usual trainer and progress."""
    from regard.training import rundir
    from regard.training.loop import train

    known = set(_lines("train.zh.xz"))
    training, shared = config.training, sum(sentence in known for sentence in SENTENCES)
    title = f"2. Now a model of your own, {training.minutes:g} minutes on {len(known):,} sentences of Tatoeba"
    _say(console, f"\n{title}", style="bold")
    _say(console, f"   ({shared} of the {len(SENTENCES)} above among them):")
    # An earlier demo's run is replaced; the trainer refuses to replace any other.
    earlier = folder / rundir.CONFIG
    force = earlier.is_file() and _comparable(read_config(earlier)) == _comparable(config)
    scores: list[float] = []

    def hear(kind: str, values: Mapping[str, Any]) -> None:
        if kind == "validation" and "bleu" in values:
            scores.append(values["bleu"])

    result = train(config, folder, force=force, device=device, on_event=hear)
    if scores:
        went = " ".join(f"{score:.1f}" for score in scores)
        _say(console, f"BLEU on {training.validate_sentences} sentences of dev, as it went: {went}")
    return result


def _comparable(config: Config) -> Config:
    """The configuration without the keys that the demo's options set; equal for all demos."""
    training = dataclasses.replace(config.training, minutes=0.0, validate_sentences=1)
    return dataclasses.replace(config, seed=0, training=training)


def corpus() -> Path:
    """The folder of the packaged corpus: train and dev, .zh.xz and .en.xz."""
    return Path(str(importlib.resources.files("regard"))) / "packaged" / "tatoeba-zh-en"


def configuration(minutes: float, seed: int, dev: int = 1000) -> Config:
    """The configuration of the demo's training."""
    data = {**DATA, "train": [str(corpus() / "train")], "valid": str(corpus() / "dev")}
    # Few validation sentences, so that the minutes are spent on learning.
    training = {**TRAINING, "minutes": minutes, "validate_sentences": min(200, dev)}
    return read_config(None, seed=seed, data=data, model=MODEL, training=training)


def _translate(console: Console, translator: Translator, sentences: Sequence[str]) -> None:
    for sentence, found in zip(sentences, translator.translate(list(sentences)), strict=True):
        _say(console, f"   {sentence}\n     → {found.text}")


def _score(console: Console, translator: Translator, dev: int) -> None:
    """Print BLEU on the development set, with the default search."""
    from regard.evaluation import corpus_scores

    sources, references = (list(_lines(f"dev.{side}.xz"))[:dev] for side in ("zh", "en"))
    found = corpus_scores([one.text for one in translator.translate(sources)], references, "en")
    _say(console, f"\nBLEU on {dev:,} sentences of dev: {found.bleu:.2f} ({found.bleu_signature})")


def _lines(name: str) -> Iterator[str]:
    yield from lzma.decompress((corpus() / name).read_bytes()).decode("utf-8").split("\n")[:-1]


def _next(console: Console, model: str, folder: Path | None) -> None:
    """Print commands to try next."""
    lines = [
        ("translate what you type, line by line", f"regard translate {model}"),
        ("see what it looked at", f"regard look {model} 我爱机器学习 --png map.png"),
        ("train on texts of your own", "regard train train.zh train.en --minutes 30"),
        ("all verbs", "regard --help"),
    ]
    if folder is not None:
        lines.insert(0, ("go on with your model", f"regard train --resume {folder} --minutes 30"))
    _say(console, "\nWhat to type next:", style="bold")
    wide = max(len(command) for _, command in lines)
    for what, command in lines:
        _say(console, f"   {command:<{wide}}   {what}")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(printable(text, keep="\n"), markup=False, style=style)
    sys.stdout.flush()  # keeps the order with the trainer's lines on standard error
