"""Formats, shards and memory: what a model directory may be, and how little it takes to read it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from regard import directory
from regard.accel import int8
from regard.accel.prepared import prepare, quantize
from regard.accel.preparing import read_prepared, read_quantized
from regard.errors import RegardError
from regard.models.encoder import Encoder
from regard.models.heads import Head, MaskedWords, Spans, TextLabels, TokenLabels
from regard.models.transformer import Transformer
from regard.nn.positions import Learned
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.weights import open_file

pytestmark = pytest.mark.filterwarnings("ignore::regard.errors.RegardWarning")
OPTIONS = Transformer(width=32, heads=2, feedforward=64, encoder_layers=1, decoder_layers=1)
ROWS = 300  # of the tables: more than the tokenizer has entries


def make(folder: Path, options: Transformer = OPTIONS, **keys: Any) -> Path:
    torch.manual_seed(1)
    tokenizer = Tokenizer.train(["a man rides a horse"], vocabulary=280)
    model = options.build(ROWS)
    return directory.save(folder, model, options, TextSettings(), tokenizer, vocabulary=(ROWS, None), **keys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "model")


def edit(folder: Path, name: str = "config.json", **keys: Any) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    values = json.loads((folder / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps(values | keys), "utf-8")


def divide(folder: Path) -> dict[str, str]:
    """Divide the weights among two shards; returns the map of the index."""
    (folder / "manifest.json").unlink()
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(weights))}
    for shard in set(places.values()):
        part = {name: weights[name] for name in weights if places[name] == shard}
        safetensors.torch.save_file(part, folder / shard)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}), "utf-8")


def refused(folder: Path, pattern: str) -> None:
    with pytest.raises(RegardError, match=pattern) as caught:
        directory.load(folder)
    assert "\n" not in str(caught.value)


def logits(model: Any) -> Tensor:
    torch.manual_seed(2)
    source, target = (Tokens(torch.randint(4, ROWS, (3, n)), torch.full((3,), n)) for n in (7, 5))
    with torch.no_grad():
        found: Tensor = model.logits(model(target, model.encode(source)).hidden)
    return found


def test_task_and_vocabulary_are_written_and_read(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["format_version"], config["task"], config["vocabulary"]) == (2, "translation", ROWS)
    loaded = directory.load(folder)
    assert loaded.task == "translation" and loaded.vocabulary == (ROWS, None)
    assert loaded.text.tokenizer.size < ROWS == len(loaded.model.output_table()[0])
    again = directory.save(
        tmp_path / "again", loaded.model, loaded.options, *loaded.text, task=loaded.task, vocabulary=loaded.vocabulary
    )
    assert torch.equal(logits(directory.load(again).model), logits(loaded.model))


def test_a_task_or_vocabulary_that_cannot_be(folder: Path) -> None:
    edit(folder, task="translate")
    refused(folder, r"config\.json: 'task' is 'translate': .*did you mean 'translation'")
    edit(folder, task="translation", vocabulary=[1, 2, 3])
    refused(folder, r"config\.json: 'vocabulary' is \[1, 2, 3\]: expected a number")
    edit(folder, vocabulary=100)
    refused(folder, r"config\.json: 'vocabulary' is 100, but the tokenizer has \d+ entries")
    edit(folder, vocabulary=ROWS + 1)
    refused(folder, r"model\.safetensors: '.*table.weight' is \[300, 32\], but config.json and .* make it \[301, 32\]")


@pytest.mark.parametrize(
    ("head", "task", "others"),
    [
        (TextLabels(), "classification", ("language_model", "translation", "masked", "tagging", "spans")),
        (TokenLabels(), "tagging", ("classification",)),
        (MaskedWords(), "masked", ("classification", "language_model")),
        (Spans(), "spans", ("tagging",)),
        (None, "embedding", ("masked", "language_model")),
    ],
)
def test_a_task_that_does_not_fit_the_model(
    tmp_path: Path, head: Head | None, task: str, others: tuple[str, ...]
) -> None:
    labels = ("a", "b") if isinstance(head, TextLabels | TokenLabels) else ()
    options = Encoder(width=16, heads=2, layers=1, feedforward=32, head=head, labels=labels)
    folder = directory.save(tmp_path / "x", options.build(50), options, None, None, vocabulary=(50, None))
    assert directory.load(folder).task == task, "the usual one"
    for other in others:
        edit(folder, task=other)
        refused(folder, rf"config\.json: 'task' is '{other}', which a model .* cannot do: expected {task}")
        with pytest.raises(RegardError, match="cannot do"):
            directory.save(tmp_path / "y", options.build(50), options, None, None, vocabulary=(50, None), task=other)


def test_marks_leave_room_for_a_text(tmp_path: Path) -> None:
    options = Encoder(width=16, heads=2, layers=1, feedforward=32, positions=Learned(length=4))
    tokenizer = Tokenizer.train(["a man rides a horse"], vocabulary=280)
    settings = TextSettings(source_before=(2,), source_after=(3,))
    folder = directory.save(tmp_path / "x", options.build(tokenizer.size), options, settings, tokenizer)
    directory.load(folder)
    edit(folder, "text.json", source_before=[2, 2, 2])
    refused(folder, r"text\.json: 4 marks stand around a text, and the model has learnt 4 positions")


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="options and vocabulary make it"):
        directory.save(tmp_path / "x", OPTIONS.build(290), OPTIONS, None, None, vocabulary=(291, None))
    assert not (tmp_path / "x").exists()


def test_a_model_without_text(tmp_path: Path) -> None:
    folder = directory.save(tmp_path / "x", OPTIONS.build(50), OPTIONS, None, None, vocabulary=(50, None))
    loaded = directory.load(folder)
    assert loaded.settings is loaded.tokenizer is loaded.target_tokenizer is None and loaded.vocabulary == (50, None)
    with pytest.raises(RegardError, match="reads no text"):
        _ = loaded.text


def test_shards(folder: Path) -> None:
    expected = logits(directory.load(folder).model)
    divide(folder)
    assert torch.equal(logits(directory.load(folder).model), expected)


@pytest.mark.parametrize("shard", ["../model-0.safetensors", "/etc/passwd", "a/b.safetensors", "model-0.bin", 3, ""])
def test_a_shard_is_a_file_of_the_folder(folder: Path, shard: object) -> None:
    places: dict[str, Any] = dict(divide(folder))
    write_index(folder, places | {next(iter(places)): shard})
    refused(folder, r"index\.json: .* expected the name of a \.safetensors file here")


def test_shards_that_do_not_fit_the_index(folder: Path, tmp_path: Path) -> None:
    places = divide(folder)
    first, second = list(places)[:2]
    write_index(folder, places | {first: places[second]})
    refused(folder, r"model-\d\.safetensors: it holds .* lists it in")
    write_index(folder, {name: shard for name, shard in places.items() if name != first})
    refused(folder, r"does not list it")
    write_index(folder, places | {"surplus": places[first]})
    refused(folder, r"'surplus' is missing")
    write_index(folder, [])
    refused(folder, "expected 'weight_map'")
    write_index(folder, places)
    shutil.move(folder / places[first], tmp_path / "elsewhere")
    refused(folder, "no such file")
    (folder / places[first]).symlink_to(tmp_path / "elsewhere")
    refused(folder, "a link out of its folder")
    (folder / places[first]).unlink()
    shutil.copy(tmp_path / "elsewhere", folder / places[first])
    shutil.copy(tmp_path / "elsewhere", folder / "model.safetensors")
    refused(folder, r"there is model\.safetensors too")


def test_a_file_that_changes_while_it_is_read_is_one_line(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = open_file(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RegardError, match="it changed while it was read; expected a file at rest"):
        next(iter(tensors.values())).read()


@pytest.mark.parametrize("share", ["all", "target", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("bias", [False, True])
def test_preparing_while_reading_gives_the_same_numbers(
    tmp_path: Path, share: Any, dtype: torch.dtype, bias: bool
) -> None:
    if dtype == torch.int8 and not int8.available():
        pytest.skip("PyTorch has no integer products here")
    options = Transformer(
        width=32, heads=2, feedforward=64, encoder_layers=1, decoder_layers=2, share=share, output_bias=bias
    )
    folder = make(tmp_path / "model", options)

    def read(kind: torch.dtype, replacing: Any = None) -> directory.Loaded:
        return directory.load(folder, "cpu", kind, replacing)

    if dtype == torch.int8:
        whole = read(torch.float32).model
        assert torch.equal(logits(read_quantized(read).model), logits(quantize(whole)))
        expected = prepare(whole, dtype)
    else:
        expected = prepare(read(dtype).model)
    found: Any = read_prepared(read, dtype).model
    assert found.is_alone and not expected.is_alone and prepare(found) is found and found.is_current(found)
    assert torch.equal(logits(found), logits(expected))
    hidden, some = torch.randn(2, 32), torch.tensor([5, 299, 7])
    with torch.no_grad():
        one, other = (model.logits(hidden.to(model.output_table()[0].dtype), some) for model in (found, expected))
    assert torch.allclose(one.float(), other.float(), atol=1e-5)
    assert found.output_table()[0].shape == expected.output_table()[0].shape
    assert not any(tensor.is_meta for tensor in found.parameters())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report the memory")
@pytest.mark.parametrize(("stored", "dtype"), [("fp32", "fp32"), ("fp16", "fp32"), ("fp16", "bf16"), ("fp32", "int8")])
def test_loading_and_preparing_take_little_more_than_the_weights(tmp_path: Path, stored: str, dtype: str) -> None:
    place = Path(__file__).parent.parent / "benchmarks" / "loading.py"
    spec = importlib.util.spec_from_file_location("loading", place)
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(place.parent))
    try:
        loading = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loading)
    finally:
        sys.path.remove(str(place.parent))
    loading.make(tmp_path / "model", "transformer", stored)
    job = {"by": "regard", "folder": str(tmp_path / "model"), "dtype": dtype}
    found = loading.measured(job)["peak"] / loading.weights(tmp_path / "model", dtype)
    assert found <= loading.BOUND, f"{found:.3f} times the weights"
