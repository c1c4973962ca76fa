"""Damaged or contradictory folders of published models: each fault is one line that names the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tokenizers
import torch

from regard.cli.main import main
from regard.directory import Loaded, save
from regard.errors import RegardError
from regard.interop import published
from regard.models import registry
from regard.pipelines.loading import open_model
from regard.tasks import load
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

V = 20
OPTIONS: dict[str, Any] = {
    "architecture": "decoder", "width": 8, "heads": 2, "feedforward": 12, "layers": 2, "norm": "rms_norm",
    "gated": True, "activation": "silu", "bias": False, "tied": False, "dropout": 0.0,
}  # fmt: skip
SETTINGS = TextSettings(
    pad=0, unk=1, start=(2,), ends=(3,), source_after=(), normalize=(), max_length=15, length_penalty="power:1"
)


def words(count: int = V) -> Tokenizer:
    names = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{number}" for number in range(4, count))]
    model = tokenizers.models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return Tokenizer(inner)


def llama(tokenizer: Tokenizer | None) -> Loaded:
    torch.manual_seed(0)
    options = registry.options_from(OPTIONS)
    model = options.build(V).eval()
    return Loaded(model, options, SETTINGS, tokenizer, tokenizer, "", Path("made"), "language_model", (V, None))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return published.write(llama(words()), tmp_path / "llama")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(RegardError, match=message) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_there_and_back(folder: Path) -> None:
    made, loaded = llama(words()), open_model(folder)
    assert loaded.task == "language_model" and loaded.vocabulary == (V, None) and loaded.settings == SETTINGS
    assert loaded.options.normed_at_the_end and loaded.tokenizer is not None
    assert loaded.tokenizer.encode("w5 w7") == [5, 7]
    ours, theirs = (one.model.state_dict() for one in (made, loaded))  # type: ignore[attr-defined]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    half = published.load(folder, dtype=torch.bfloat16)
    assert half.model.output_table()[0].dtype == torch.bfloat16


def test_our_own_directories_are_opened_too(tmp_path: Path) -> None:
    made, tokenizer = llama(words()), words()
    save(tmp_path / "ours", made.model, made.options, SETTINGS, tokenizer, task="language_model")
    assert open_model(tmp_path / "ours").task == "language_model"
    with pytest.raises(RegardError, match="no such directory or packaged model"):
        open_model(tmp_path / "nothing")


def test_shards(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = open_model(folder).model.state_dict()  # type: ignore[attr-defined]
    (folder / "model.safetensors").unlink()
    places = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file({each: weights[each] for each in part}, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}), encoding="utf-8")
    found = open_model(folder).model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    index.write_text(json.dumps({"weight_map": places | {"lm_head.weight": "../x.safetensors"}}), encoding="utf-8")
    refused(folder, "expected the name of a .safetensors file here")


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_attention_heads": 0}, "config.json: .*heads"),
    ({"num_attention_heads": "2"}, "config.json: num_attention_heads: 'model.heads' is '2'"),
    ({"num_attention_heads": 3}, "config.json: .*"),
    ({"num_key_value_heads": 10**30}, "config.json: num_key_value_heads and head_dim: 'model.key_value_heads'"),
    ({"hidden_size": 10**9}, "config.json: hidden_size: 'model.width' is 1000000000"),
    ({"num_hidden_layers": 900}, "config.json: 900 layers, but there are 21 tensors"),
    ({"num_hidden_layers": 1}, "'model.layers.1.[a-z_.]*' is in the checkpoint, but has no place"),
    ({"num_hidden_layers": 3}, "'model.layers.2.[a-z_.]*' is missing"),
    ({"intermediate_size": 13}, r"'model.layers.0.mlp.gate_proj.weight' is \[12, 8\], expected \[13, 8\]"),
    ({"vocab_size": 19}, "tokenizer.json.* 20 entries, .*19"),
    ({"vocab_size": 0}, "vocab_size = 0: expected a whole number, 1 or more"),
    ({"vocab_size": None}, "config.json has no 'vocab_size'"),
    ({"hidden_size": None}, "config.json has no 'hidden_size'"),
    ({"model_type": "lama"}, "model_type = 'lama': regard reads bert, llama, marian, t5 — did you mean 'llama'"),
    ({"model_type": ["llama"]}, "regard reads bert, llama, marian, t5"),
    ({"architectures": ["LlamaForTokenClassification"]}, "architectures = 'LlamaForTokenClassification': expected"),
    ({"architectures": "LlamaForCausalLM"}, "expected a list with the name of one class"),
    ({"hidden_act": "tanh"}, "hidden_act = 'tanh': expected one of gelu"),
    ({"hidden_act": ["silu"]}, "hidden_act = .*: expected one of gelu"),
    ({"layer_types": ["sliding"]}, "'layer_types' = .*regard does not know this key"),
    ({"quantization_config": {"bits": 4}}, "'quantization_config' = .*regard does not know this key"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn': expected one of default, linear"),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling = .*cannot be read"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "odd": 1}}, "unknown: 'odd'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "x"}}, "config.json: "),
    ({"rope_scaling": "linear"}, "rope_scaling = 'linear'.*cannot be read"),
    ({"rope_theta": -1.0}, "theta=-1.0 must be more than 1"),
    ({"max_position_embeddings": 10**12}, "max_position_embeddings = 1000000000000: expected 2 to"),
    ({"rms_norm_eps": "x"}, "config.json: "),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=[str(changes)[:40] for changes, _ in CONFIGS])
def test_configurations_that_fit_nothing(folder: Path, changes: dict[str, Any], message: str) -> None:
    changed(folder / "config.json", lambda config: config.update(changes))
    refused(folder, message)


def test_a_key_without_a_value_or_a_harmless_one_is_read(folder: Path) -> None:
    harmless = {"quantization_config": None, "torch_dtype": "bfloat16", "_name_or_path": "x", "use_cache": True,
                "pretraining_tp": 1, "task_specific_params": {"a": 1}}  # fmt: skip
    changed(folder / "config.json", lambda config: config.update(harmless))
    open_model(folder)


IDS: list[tuple[str, dict[str, Any], str]] = [
    ("generation_config.json", {"eos_token_id": 20}, "'ends' holds 20, but the vocabulary has 20 entries"),
    ("generation_config.json", {"pad_token_id": 1 << 70}, "'pad' holds"),
    ("generation_config.json", {"eos_token_id": {"a": 1}}, "generation_config.json: eos_token_id"),
    ("tokenizer_config.json", {"pad_token": 3}, "tokenizer_config.json: pad_token"),
    ("tokenizer.json", {"post_processor": {"type": "BertProcessing", "cls": ["<s>", 99], "sep": ["</s>", 3]}},
     "'start' holds 99, but the vocabulary has 20 entries"),
    ("tokenizer.json", {"post_processor": 7}, "tokenizer.json: post_processor"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), IDS)
def test_ids_that_there_are_not(folder: Path, name: str, changes: dict[str, Any], message: str) -> None:
    changed(folder / "config.json", lambda config: config.update({"pad_token_id": None}))
    if name != "generation_config.json":
        changed(folder / "generation_config.json", lambda config: config.update({"pad_token_id": None}))
    changed(folder / name, lambda content: content.update(changes))
    refused(folder, message)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for broken in (data[:-1], struct.pack("<Q", 1 << 60) + data[8:], data[:4], b"", b"{" * 100):
        path.write_bytes(broken)
        refused(folder, "model.safetensors: damaged")
    weights = safetensors.torch.load(data)
    for name, tensor, message in (
        ("lm_head.weight", torch.full((V, 8), float("nan")), "not finite"),
        ("lm_head.weight", torch.zeros(V, 8, dtype=torch.int32), "int32"),
        ("lm_head.weight", torch.zeros(8, V), r"'lm_head.weight' is \[8, 20\], expected \[20, 8\]"),
        ("lm_haed.weight", torch.zeros(1), "did you mean 'lm_head.weight'"),
    ):
        safetensors.torch.save_file({**weights, name: tensor}, path)
        refused(folder, message)


def test_links_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json", "config.json"):
        outside = tmp_path / f"outside-{name}"
        os.rename(folder / name, outside)
        (folder / name).symlink_to(outside)
        refused(folder, f"{name}: a link out of its folder")
        (folder / name).unlink()
        os.rename(outside, folder / name)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin: pickled weights can run code, and are not read: convert them")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "model.safetensors: no such file")


def test_without_a_tokenizer_the_model_takes_ids(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).unlink()
    loaded = open_model(folder)
    assert loaded.tokenizer is None and loaded.settings is not None and loaded.settings.start == (2,)


def test_what_no_family_holds_is_not_written(tmp_path: Path) -> None:
    options = registry.options_from(OPTIONS | {"window": 3})
    model = options.build(V)
    made = Loaded(model, options, SETTINGS, None, None, "", tmp_path, "language_model", (V, None))
    with pytest.raises(RegardError, match="LLaMA cannot hold this model: window would have to be 0"):
        published.write(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_text_is_theirs(folder: Path) -> None:
    """The library's tokenizer of a folder that we wrote puts the marks where ours are."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("w5 w7")["input_ids"] == [2, 5, 7]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (3, 0, 2)


def test_a_name_is_looked_for_in_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files there are links from snapshots/ into blobs/."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RegardError, match=r"org/tiny-llama: no such directory, and not in .*: hf download org/tiny-llama"
    ):
        open_model("org/tiny-llama")
    (tmp_path / "org" / "tiny-lama").mkdir(parents=True)
    with pytest.raises(RegardError, match=r"^org/tiny-llama: no such directory in org — did you mean 'tiny-lama'\?$"):
        open_model("org/tiny-llama")
    place = tmp_path / "home" / "hub" / "models--org--tiny-llama"
    snapshot, blobs = place / "snapshots" / ("a" * 40), place / "blobs"
    for each in (snapshot, blobs, place / "refs"):
        each.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (place / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    assert open_model("org/tiny-llama").task == "language_model"
    (place / "refs" / "main").write_text("../../outside", encoding="utf-8")
    with pytest.raises(RegardError, match="expected a revision of 40 hexadecimal digits"):
        open_model("org/tiny-llama")


def test_params_reads_no_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = sum(tensor.numel() for tensor in llama(None).model.parameters())
    weights = folder / "model.safetensors"
    header = weights.read_bytes()
    length = 8 + struct.unpack("<Q", header[:8])[0]
    weights.write_bytes(header[:length] + b"\xff" * (len(header) - length))  # NaN
    assert main(["params", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == expected and any("self_attention.query" in part["name"] for part in found["parts"])
    weights.unlink()
    assert main(["params", str(folder)]) == 2
    assert "model.safetensors: no such file" in capsys.readouterr().err


def test_params_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository, revision = tmp_path / "models--org--name", "0" * 40
    published.write(llama(None), repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    assert main(["params", "org/name"]) == 0
    assert "total" in capsys.readouterr().out


def test_a_folder_without_a_tokenizer_runs_no_verb(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert open_model(folder).tokenizer is None
    with pytest.raises(
        RegardError, match=r"tokenizer\.json: no such file: .* AutoTokenizer.*save_pretrained"
    ) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "text.json" not in str(caught.value)
