"""The configuration's tables: every key with its type, default, help and range, declared once.

Flags, ``--print-config``, errors about unknown keys and the documentation are made from these tables.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from regard import limits
from regard.errors import RegardError, nearest

Entry = str | tuple[str, str]  # a corpus: a prefix or one file, or the files of both languages


def option(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float = limits.ANY_NUMBER,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A field with help and range; with ``...`` as default the key must be given."""
    metadata = {"help": help, "above": above, "least": least, "most": most, "below": below, "choices": choices}
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _outside(number: float, rule: Mapping[str, Any]) -> str:
    """The bound of its field's range that a number violates, in words; "" if none."""
    if rule["above"] is not None and not number > rule["above"]:
        return f"more than {rule['above']}"
    if rule["least"] is not None and not number >= rule["least"]:
        return f"at least {rule['least']}"
    if not number <= rule["most"]:
        return f"at most {rule['most']}"
    if rule["below"] is not None and not number < rule["below"]:
        return f"less than {rule['below']}"
    return ""


def _check(table: str, value: Any) -> None:
    """Raise for the first field of a table outside its range."""
    for item in dataclasses.fields(value):
        given, rule = getattr(value, item.name), item.metadata
        if not rule:
            continue
        key = f"{table}.{item.name}" if table else item.name
        if isinstance(given, float) and not math.isfinite(given):
            raise RegardError(f"{key} = {given}: expected a finite number")
        for number in given if isinstance(given, tuple) else (given,):
            fault = _outside(number, rule) if isinstance(number, int | float) else ""
            if fault:
                raise RegardError(f"{key} = {number}: expected {fault}")
        if rule.get("choices"):
            for name in given if isinstance(given, tuple) else (given,):
                if name not in rule["choices"]:
                    hint = nearest(name, rule["choices"])
                    raise RegardError(f"{key} = {name!r}: expected one of {', '.join(rule['choices'])}{hint}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The corpora, and how they become subwords."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    train: tuple[str | tuple[str, str], ...] = option(
        ...,
        "training corpora: each a prefix whose .SOURCE and .TARGET files exist (also .gz, .xz, .bz2, .zst), one TSV, "
        'CSV or JSONL file, or a list of two files, ["a.zh", "b.en"]; for a language model also plain text; relative '
        "to the current folder; $REGARD_DATA is replaced",
    )
    shares: tuple[float, ...] = option(
        (), "examples drawn from each corpus in an epoch, as a share of its size; empty = all of each", above=0
    )
    valid: str | tuple[str, str] = option(..., "validation corpus, written like one of train")
    test: str | tuple[str, str] = option(
        "", "test corpus, watched for overlap with train and never used to choose anything"
    )
    source: str = option("", "language code of the source, such as zh; a translation needs one")
    target: str = option("", "language code of the target, such as en; a translation needs one")
    source_key: str = option(
        "",
        "JSONL key (dots reach inside: translation.zh) or column (name, or number from 0) of the source; empty = found",
    )
    target_key: str = option("", "JSONL key or column of the target; empty = by the language, else the second of two")
    text: str = option(
        "", "column or JSONL key of the text, where the task is not translation; empty = found by its name"
    )
    pair: str = option("", "column or JSONL key of a second text that is classified with the first; empty = none")
    label: str = option("", "column or JSONL key of the label in a classification; empty = found by its name")
    tokenizer: Literal["bpe", "unigram", "characters"] = option(
        "bpe", "kind of subwords; characters = each character of the corpus is one, at most vocabulary many"
    )
    vocabulary: int = option(
        8000, "subwords in a vocabulary, the 256 bytes and 4 special ones included", least=261, most=limits.VOCABULARY
    )
    joint: bool = option(True, "one vocabulary for both languages; false = one each")
    character_coverage: float = option(
        0.9995,
        "share of the corpus's characters that get subwords of their own (bpe, unigram); the rest become bytes",
        above=0,
        most=1,
    )
    normalize: tuple[str, ...] = option(
        ("nfc",),
        "steps applied to text before subwords, in this order: nfc, nfkc, simplified, lower",
        choices=("nfc", "nfkc", "simplified", "lower"),
    )
    subword_dropout: float = option(
        0.0, "probability of leaving out a merge, so that words are cut differently in each epoch", least=0, below=1
    )
    max_length: int = option(
        256, "longest side in subwords; longer pairs are left out of training and counted", least=1, most=limits.LENGTH
    )
    max_ratio: float = option(
        9.0, "pairs with one side more than this many times the other count as misaligned", least=1
    )
    remove_overlap: bool = option(False, "leave out training pairs whose source or target stands in valid or test")
    cache: str = option("", "folder of the prepared shards; empty = RUN/data")

    def __post_init__(self) -> None:
        _check("data", self)
        if not self.train:
            raise RegardError("data.train is empty: name at least one corpus")
        if self.shares and len(self.shares) != len(self.train):
            raise RegardError(
                f"data.shares has {len(self.shares)} numbers for {len(self.train)} corpora in data.train: "
                "give one for each, or none"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training. Tokens are subwords of the target and its end mark; padding never counts."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = option(100_000, "updates of the weights; one update may accumulate several batches", least=1)
    minutes: float = option(0.0, "stop after this much training time; 0 = no limit", least=0)
    batch_tokens: int = option(
        4096,
        "size of a batch: sentences × the longest side in it, in subwords, stays at or below this",
        least=1,
        most=limits.BATCH,
    )
    accumulate: int = option(1, "batches whose gradients are summed for one update", least=1)
    learning_rate: float = option(0.0, "peak learning rate; 0 = the paper's, (width × warmup_steps)^-0.5", least=0)
    warmup_steps: int = option(4000, "updates over which the rate rises from 0 to its peak", least=0)
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = option(
        "inverse_sqrt", "how the rate falls after the warm-up; inverse_sqrt is the paper's"
    )
    optimizer: Literal["adam", "muon"] = option(
        "adam", "adam is the paper's; muon = orthogonal steps for the matrices of hidden layers, Adam for the rest"
    )
    beta1: float = option(0.9, "Adam: decay of the mean of gradients", least=0, below=1)
    beta2: float = option(0.98, "Adam: decay of the mean of squared gradients", least=0, below=1)
    eps: float = option(1e-9, "Adam: added to the denominator", above=0)
    weight_decay: float = option(0.0, "decoupled weight decay, on matrices only", least=0)
    label_smoothing: float = option(0.1, "share of probability spread evenly over the vocabulary", least=0, below=1)
    clip_norm: float = option(0.0, "largest norm of an update's gradient; 0 = not clipped", least=0)
    rdrop: float = option(
        0.0, "weight of R-Drop: two dropouts of a batch must agree; 0 = off, else twice the work", least=0
    )
    validate_every: int = option(500, "updates between validations", least=1)
    patience: int = option(0, "stop after this many validations without improvement; 0 = never", least=0)
    keep: int = option(5, "best checkpoints kept, by the validation metric", least=1)
    average: int = option(
        5, "last and best checkpoints averaged for the final choice, so many of each; 1 = none", least=1
    )
    ema: float = option(
        0.0, "decay of a moving average of the weights, validated in their place; 0 = off", least=0, below=1
    )
    save_every: int = option(500, "updates between checkpoints to resume from", least=1)
    keep_checkpoints: int = option(2, "newest checkpoints kept to resume from", least=1)
    metric: Literal["auto", "bleu", "loss", "accuracy", "macro_f1"] = option(
        "auto",
        "validation measure by which the best weights are chosen: auto = bleu of translations, accuracy of labels, "
        "loss of other tasks",
    )
    validate_sentences: int = option(0, "validate on the first so many examples; 0 = all", least=0)
    samples: int = option(3, "samples shown at each validation", least=0)
    log_every: int = option(50, "updates between lines of the log", least=1)
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "precision of matrix products: auto = bf16 where the device supports it in hardware; weights stay fp32"
    )
    compile: bool = option(False, "on a CUDA GPU: fused kernels for layers and loss, by torch.compile")
    deterministic: bool = option(True, "the same bits in every run, on a GPU too, at some cost in speed")
    threads: int = option(0, "CPU threads; 0 = PyTorch's choice", least=0, most=limits.THREADS)
    init: str = option("", "model directory, published folder or name to start from; empty = fresh weights")

    def __post_init__(self) -> None:
        _check("training", self)
        if self.schedule == "inverse_sqrt" and self.warmup_steps == 0:
            raise RegardError("training.warmup_steps = 0: the inverse square root needs at least 1 step of warm-up")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The search for translations in validation, and the default of ``regard translate``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "coerce_numbers_to_str": True}

    beam: int = option(5, "hypotheses kept for a sentence; 1 = greedy", least=1, most=limits.BEAM)
    length_penalty: str = option(
        "gnmt:0.6",
        "a score is divided by gnmt:A = ((5 + length)/6)^A, the paper's, or power:A = length^A; a bare A is gnmt",
    )
    max_extra: int = option(
        50, "longest output: the input's subwords and this many more", least=0, most=limits.EXTRA_TOKENS
    )
    n_best: int = option(1, "hypotheses given for a sentence, at most beam", least=1)
    stopping: Literal["exact", "first", "huggingface"] = option(
        "exact", "when a sentence is done: exact = no better hypothesis can come; first = as soon as beam many ended"
    )
    batch_tokens: int = option(
        4096, "size of a decoding batch in subwords; changes speed, not results", least=1, most=limits.BATCH
    )
    no_repeat: bool = option(True, "decode a sentence again without repetition if its output repeats itself")

    def __post_init__(self) -> None:
        _check("decoding", self)
        kind, _, alpha = self.length_penalty.rpartition(":")
        try:
            good = kind in ("", "gnmt", "power") and abs(float(alpha)) <= limits.ALPHA
        except ValueError:
            good = False
        if not good:
            raise RegardError(
                f"decoding.length_penalty = '{self.length_penalty}': expected gnmt:0.6, power:1.0 or 0.6, "
                f"from {-limits.ALPHA:g} to {limits.ALPHA:g}"
            )
        limits.product("decoding.beam × decoding.max_extra", self.beam, self.max_extra, limits.HYPOTHESIS_TOKENS)
        if self.n_best > self.beam:
            raise RegardError(f"decoding.n_best = {self.n_best}: expected at most decoding.beam = {self.beam}")


# The keys that name the columns of each task's corpora, in the order of ``Task.columns``, which stands higher.
COLUMNS_OF: dict[str, tuple[str, ...]] = {
    "translation": ("source_key", "target_key"),
    "language_model": ("text",),
    "masked": ("text",),
    "classification": ("text", "pair", "label"),
}
COLUMNS = tuple(dict.fromkeys(name for names in COLUMNS_OF.values() for name in names))


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of a run. ``model`` is flat: architecture, preset and that architecture's options."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    seed: int = option(1, "every random stream of the run is derived from it", least=0, most=limits.SEED)
    task: Literal["translation", "language_model", "masked", "classification"] = option(
        "translation",
        "translation; language_model = a text is continued; masked = hidden words are found; classification = a text "
        "has a label",
    )
    data: DataConfig
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        _check("", self)
        for name in ("source", "target"):
            if self.task == "translation" and not getattr(self.data, name):
                help = DataConfig.__dataclass_fields__[name].metadata["help"]
                raise RegardError(f"'data.{name}' is missing ({help})")
        for name in COLUMNS:
            if getattr(self.data, name) and name not in COLUMNS_OF[self.task]:
                known = " and ".join(f"data.{other}" for other in COLUMNS_OF[self.task])
                raise RegardError(f"data.{name} is not of task '{self.task}', whose columns are {known}")


TABLES: dict[str, type] = {"data": DataConfig, "training": TrainingConfig, "decoding": DecodingConfig}


class Option(NamedTuple):
    """One key as ``--help`` and the documentation show it; ``default`` is MISSING if the key must be given."""

    key: str
    type: Any
    default: Any
    help: str


def options_table() -> list[Option]:
    """Every key of the configuration except the model's own options, in the order of this file."""
    types = typing.get_type_hints(Config)
    rows = [
        Option(item.name, types[item.name], item.default, item.metadata["help"])
        for item in dataclasses.fields(Config)
        if item.metadata
    ]
    for table, kind in TABLES.items():
        types = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            rows.append(Option(f"{table}.{item.name}", types[item.name], item.default, item.metadata["help"]))
    return rows
