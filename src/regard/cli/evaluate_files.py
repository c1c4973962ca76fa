"""The scores of a model on one file, by its task: a classifier's on labelled texts, a language model's on a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard.cli.common import talk
from regard.cli.lines import open_loaded
from regard.cli.report import Part, print_parts, table
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.data.columns import Column
    from regard.directory import Loaded
    from regard.evaluation.labels import LabelScores
    from regard.pipelines.classifier import Classification

MATRIX = 12  # the confusion of at most so many labels is a matrix; of more, the most frequent confusions are listed
LISTED = 20
LONGEST = 200  # characters of a wrongly labelled text that are shown


class Labelled(NamedTuple):
    """The examples of a labelled file: their texts, second texts or None, labels by number, and places."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int]
    places: list[str]


def evaluate_file(
    model: str,
    file: str,
    keys: Mapping[str, str],
    worst: int,
    batch_tokens: int,
    device: str,
    dtype: str,
    threads: int,
    json: bool,
) -> None:
    """Print the scores of a model on ``file``; ``keys`` name its columns, "" those that the run remembers."""
    loaded = open_loaded(model, device, dtype, threads)
    if loaded.task not in REPORTS:
        raise RegardError(
            f"{loaded.path}: the model's task is {loaded.task}, which has no scores on a FILE: a classifier is "
            "evaluated on a FILE of labels, a language model on a text, a translation model with --source and "
            "--reference"
        )
    parts = REPORTS[loaded.task](loaded, file, keys, worst, batch_tokens)
    print_parts({"model": model, "file": file}, parts, json)


def classification(
    loaded: Loaded, file: str, keys: Mapping[str, str], worst: int, batch_tokens: int
) -> list[Callable[[], Part]]:
    """The parts of the report on a classifier."""
    from regard.evaluation.labels import label_scores
    from regard.pipelines.classifier import Classifier

    classifier = Classifier(loaded)
    examples = read_labelled(file, _columns(loaded, file, keys), classifier.labels)
    found = classifier.classify(
        examples.texts,
        examples.pairs,
        batch_tokens=batch_tokens,
        warn=lambda index, what: talk(f"regard: {examples.places[index]} {what}"),
    )
    number = {label: index for index, label in enumerate(classifier.labels)}
    scores = label_scores(examples.labels, [number[one.label] for one in found], classifier.labels)
    parts: list[Callable[[], Part]] = [partial(_scores, scores), partial(_labels, scores), partial(_confusion, scores)]
    if worst:
        parts.append(partial(_worst, examples, found, classifier.labels, worst))
    return parts


def language_model(
    loaded: Loaded, file: str, keys: Mapping[str, str], worst: int, batch_tokens: int
) -> list[Callable[[], Part]]:
    """The parts of the report on a language model."""
    if worst or keys["label"] or keys["pair"]:
        raise RegardError("--worst, --label and --pair are for classifiers: a language model is evaluated on a text")
    ids, characters = read_stream(loaded, file, keys["text"])
    return [partial(_loss, loaded, ids, characters, batch_tokens)]


#: What is printed of a model of each task.
REPORTS: dict[str, Callable[[Loaded, str, Mapping[str, str], int, int], list[Callable[[], Part]]]] = {
    "classification": classification,
    "language_model": language_model,
}


def read_stream(loaded: Loaded, file: str, key: str) -> tuple[list[int], int]:
    """The ids of a file's documents, and how many characters they have; an end mark stands after each of several."""
    from regard.config import DataConfig
    from regard.data.columns import Column
    from regard.data.streams import check_key, grouped, is_one_document, read_documents
    from regard.text.marks import target_start

    settings, tokenizer, _ = loaded.text
    data = DataConfig(train=(file,), valid=file)
    columns = [Column("text", key=key)]
    check_key([file], columns)
    pieces = read_documents(file, data, columns)
    after = () if is_one_document([file]) else settings.ends[:1]
    ids: list[int] = []
    characters = 0
    for piece in pieces if tokenizer.cut else grouped(pieces):
        ids += tokenizer.encode_batch([piece.text], continued=not piece.first)[0]
        ids += after if piece.last else ()
        characters += len(piece.text)
    if not characters:
        raise RegardError(f"{file}: has no text: there is nothing to score")
    if len(ids) + len(target_start(settings)) < 2:
        raise RegardError(f"{file}: a text of 1 token: expected two or more, since the first has nothing before it")
    return ids, characters


def _loss(loaded: Loaded, ids: list[int], characters: int, batch_tokens: int) -> Part:
    from regard.pipelines.stream_loss import stream_loss

    found = stream_loss(loaded, ids, batch_tokens)
    loss, bits = found.nats / found.tokens, found.nats / math.log(2) / characters
    perplexity = math.exp(loss) if loss < 700 else math.inf
    keys = {"loss": loss, "perplexity": perplexity, "bits_per_character": bits}
    lines = [
        f"loss {loss:.4f} nats a token, perplexity {perplexity:.3f}",
        f"{bits:.4f} bits a character",
        f"{found.tokens:,} tokens, {characters:,} characters",
    ]
    return {**keys, "tokens": found.tokens, "characters": characters}, lines


def read_labelled(file: str, columns: list[Column], labels: tuple[str, ...]) -> Labelled:
    """The examples of a file; a label that the model does not know is an error that names file and line."""
    from regard.config import DataConfig
    from regard.data.examples import read_examples, remarks
    from regard.errors import nearest

    data = DataConfig(train=(file,), valid=file)
    number = {label: index for index, label in enumerate(labels)}
    seconds: list[str] = []
    found = Labelled([], seconds if len(columns) == 3 else None, [], [])
    for (text, *pair, label), where in read_examples(file, data, columns):
        if label not in number:
            raise RegardError(
                f"{where}: the label {label!r:.60} is none of the model's: {', '.join(labels)!r:.300}"
                f"{nearest(label, labels)}"
            )
        found.texts.append(text)
        seconds += pair
        found.labels.append(number[label])
        found.places.append(where)
    for remark in remarks(file, data, columns):
        talk(f"regard: {remark}")
    return found


def _columns(loaded: Loaded, file: str, keys: Mapping[str, str]) -> list[Column]:
    """The columns of a labelled file: by the flags, else as in the run's training, else found by their names."""
    from regard.config import DataConfig
    from regard.tasks import task_named
    from regard.training import rundir

    known = dict(keys)
    if (loaded.path / rundir.CONFIG).is_file():
        data = rundir.read_run(loaded.path).data
        known = {name: key or getattr(data, name) for name, key in keys.items()}
    data = DataConfig(train=(file,), valid=file, text=known["text"], pair=known["pair"], label=known["label"])
    return list(task_named("classification").columns(data))


def _scores(scores: LabelScores) -> Part:
    keys = {name: getattr(scores, name) for name in ("accuracy", "low", "high", "macro_f1")}
    lines = [
        f"accuracy {100 * scores.accuracy:.2f} % (95 %: {100 * scores.low:.2f} … {100 * scores.high:.2f})",
        f"macro-F1 {100 * scores.macro_f1:.2f}",
        f"{scores.count:,} examples",
    ]
    return {**keys, "examples": scores.count}, lines


def _labels(scores: LabelScores) -> Part:
    rows = [["label", "precision", "recall", "F1", "examples", "predicted"]]
    for one in scores.labels:
        shares = [f"{100 * share:.2f}" for share in (one.precision, one.recall, one.f1)]
        rows.append([one.label, *shares, f"{one.support:,}", f"{one.predicted:,}"])
    return {"labels": [one._asdict() for one in scores.labels]}, ["", *table(rows)]


def _confusion(scores: LabelScores) -> Part:
    """The confusion matrix; of many labels the most frequent confusions."""
    names, matrix = [one.label for one in scores.labels], scores.confusion
    keys = {"confusion": matrix.tolist()}
    if len(names) <= MATRIX:
        rows = [["true ↓ predicted →", *names]]
        rows += [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, matrix.tolist(), strict=True)]
        return keys, ["", *table(rows)]
    wrong = matrix * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    rows = [["true", "predicted", "examples"]]
    rows += [[names[true], names[predicted], f"{wrong[true, predicted]:,}"] for true, predicted in pairs]
    return keys, ["", f"the {len(pairs)} most frequent confusions:", *table(rows)] if pairs else []


def _worst(examples: Labelled, found: list[Classification], labels: tuple[str, ...], count: int) -> Part:
    """The wrong labels of which the model was surest."""
    wrong = [n for n, one in enumerate(found) if one.label != labels[examples.labels[n]]]
    wrong = sorted(wrong, key=lambda n: (-found[n].probability, n))[:count]
    described: list[dict[str, Any]] = []
    lines = []
    for n in wrong:
        one, true = found[n], labels[examples.labels[n]]
        text = {"text": examples.texts[n]} | ({} if examples.pairs is None else {"pair": examples.pairs[n]})
        described.append(
            {"where": examples.places[n], **text, "label": true, "predicted": one.label, "probability": one.probability}
        )
        lines += ["", f"{examples.places[n]}: {one.label} ({one.probability:.4f}), the label is {true}"]
        lines += [f"  {' '.join(given.split())[:LONGEST]}" for given in text.values()]
    return {"worst": described}, lines
