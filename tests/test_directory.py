"""The model directory: what is written is what is read, and every fault is one line that names the file."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from regard import directory, files
from regard.errors import RegardError
from regard.models.description import FORMAT_VERSION
from regard.models.transformer import Transformer
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::regard.errors.RegardWarning")
OPTIONS = Transformer(width=8, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1)
LINES = ["a man rides a horse", "the woman reads", "two dogs run", "我爱机器学习"]
PAST = Path(__file__).parent / "formats"  # one directory of every past format_version


def make(folder: Path, options: Transformer = OPTIONS, *, two: bool = False, dtype: torch.dtype | None = None) -> Path:
    tokenizer = Tokenizer.train(LINES, vocabulary=290)
    target = Tokenizer.train(LINES[:2], vocabulary=280) if two else None
    torch.manual_seed(1)
    model = options.build(tokenizer.size, target.size if target else None)
    settings = TextSettings(source="en", target="zh", max_length=17)
    return directory.save(folder, model, options, settings, tokenizer, target, "# A card\n", dtype)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "zh-en")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "zh-en"))


def edit(folder: Path, name: str, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    """Change a JSON file and make no secret of it: without a manifest the directory is as if it had come this way."""
    (folder / "manifest.json").unlink(missing_ok=True)
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    (folder / "manifest.json").unlink()
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def refused(folder: Path, pattern: str) -> str:
    with pytest.raises(RegardError, match=pattern) as caught:
        directory.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_written_is_read(original: Path) -> None:
    names = {"README.md", "config.json", "manifest.json", "model.safetensors", "text.json", "tokenizer.json"}
    assert {path.name for path in original.iterdir()} == names
    weights = safetensors.torch.load_file(original / "model.safetensors")
    assert "target_embedding.table.weight" not in weights  # tied: once
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loaded = directory.load(original)
    assert torch.equal(torch.rand(1), expected), "loading moved the caller's random stream"
    assert loaded.options == OPTIONS and loaded.settings.max_length == 17 and loaded.card == "# A card\n"
    assert loaded.tokenizer is loaded.target_tokenizer and not loaded.model.training
    torch.manual_seed(1)
    fresh = OPTIONS.build(loaded.tokenizer.size)
    for (name, one), (_, other) in zip(fresh.named_parameters(), loaded.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert loaded.model.target_embedding.table.weight is loaded.model.source_embedding.table.weight


def test_two_tokenizers_and_back_to_one(tmp_path: Path) -> None:
    separate = Transformer(width=8, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, share="target")
    folder = make(tmp_path / "run", separate, two=True)
    loaded = directory.load(folder)
    assert loaded.target_tokenizer.size != loaded.tokenizer.size
    make(folder)
    assert directory.load(folder).target_tokenizer.size == loaded.tokenizer.size
    assert not (folder / "target_tokenizer.json").exists()


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
@pytest.mark.parametrize("asked", [torch.float32, torch.float64, torch.bfloat16])
def test_stored_and_asked_precision(tmp_path: Path, stored: torch.dtype, asked: torch.dtype) -> None:
    folder = make(tmp_path / "half", dtype=stored)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    loaded = directory.load(folder, dtype=asked)
    table = loaded.model.source_embedding.table.weight
    assert table.dtype == asked
    assert torch.equal(table, weights["source_embedding.table.weight"].to(torch.float32).to(asked))


def test_saving_into_a_run_keeps_the_rest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    refused(run, "has not chosen a model yet")
    make(run)
    make(run, dtype=torch.float16)
    directory.load(run)
    assert (run / "checkpoints").is_dir() and not list(run.rglob("*.partial")) and not (run / ".commit").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "text.json", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "another's"])
@pytest.mark.parametrize("manifest", [True, False])
def test_damage(model: Path, tmp_path: Path, name: str, damage: str, manifest: bool) -> None:
    path = model / name
    other = make(tmp_path / "other", Transformer(width=16, heads=2, feedforward=8, encoder_layers=2, decoder_layers=1))
    data = path.read_bytes()
    if not manifest:
        (model / "manifest.json").unlink()
    if name == "manifest.json" and (not manifest or damage == "missing"):
        directory.load(model) if not path.exists() else None
        return
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        random_bit = random.Random(1).randrange(len(data) * 8)
        broken = bytearray(data)
        broken[random_bit // 8] ^= 1 << random_bit % 8
        path.write_bytes(broken)
    else:
        another = (other / name).read_bytes()
        if damage == "another's" and another == data:
            return
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "another's": another}[damage])
    if not manifest and damage in ("flipped", "another's"):
        # Without hashes a flipped bit of a weight or a word is another model: loads, or the one exception.
        try:
            directory.load(model)
        except RegardError as error:
            assert str(model) in str(error)
        return
    refused(model, str(model / "(.*json|model.safetensors)"))


def test_files_swapped_between_models(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", dtype=torch.float16)
    shutil.copy(other / "model.safetensors", model)
    refused(model, r"model\.safetensors: damaged")


def test_structure_fuzzing(model: Path) -> None:
    """400 mutations of the files without a manifest: each loads or raises the one exception, within a second."""
    (model / "manifest.json").unlink()
    generator = random.Random(7)
    for name in ("config.json", "text.json", "model.safetensors", "tokenizer.json"):
        data = (model / name).read_bytes()
        head = min(len(data), 3000)
        for _ in range(100):
            broken = bytearray(data)
            for _ in range(generator.choice((1, 2, 8))):
                position = generator.randrange(min(head, len(broken)))
                kind = generator.randrange(4)
                if kind == 0:
                    broken[position] ^= 1 << generator.randrange(8)
                elif kind == 1:
                    broken[position : position + generator.randrange(1, 9)] = b""
                elif kind == 2:
                    broken[position:position] = generator.choice(
                        [b"9" * 12, b"-1", b"null", b"[", b'"', b"\x00", b"1e400"]
                    )
                else:
                    broken[position] = generator.choice(b'0123456789,:{}[]"')
            (model / name).write_bytes(broken)
            try:
                directory.load(model)
            except RegardError as error:
                assert str(model) in str(error), error
        (model / name).write_bytes(data)


def test_shapes_that_do_not_fit(model: Path) -> None:
    edit(model, "config.json", lambda config: config["options"].update(width=16))
    refused(model, r"model\.safetensors: '.*' is \[.*\], but config.json and tokenizer.json make it \[.*\]")


def test_a_huge_width_costs_no_memory(model: Path) -> None:
    edit(model, "config.json", lambda config: config["options"].update(width=2**26, feedforward=2**26))
    refused(model, r"zh-en/(model\.safetensors|config\.json): ")


@pytest.mark.parametrize("version", [3, 0, None, "1", 1.5, True])
def test_unknown_format_version(model: Path, version: object) -> None:
    edit(model, "config.json", lambda config: config.update(format_version=version))
    refused(model, r"config\.json: unknown format_version .*: this regard reads 1 and 2")


def test_unknown_architecture_and_option(model: Path) -> None:
    edit(model, "config.json", lambda config: config["options"].update(head=3))
    refused(model, r"config\.json: .*head.*did you mean 'heads'")
    edit(model, "config.json", lambda config: config.update(architecture="os:system"))
    refused(model, r"config\.json: .*os:system")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(model: Path, value: float) -> None:
    edit_weights(model, lambda weights: weights["source_embedding.table.weight"][3].fill_(value))
    refused(model, r"model\.safetensors: 'source_embedding.table.weight' holds numbers that are not finite")


def test_missing_extra_and_mistyped_tensors(model: Path) -> None:
    edit_weights(model, lambda weights: weights.update(surplus=torch.zeros(2)))
    refused(model, r"'surplus' does not belong")
    files.write_atomic(model / "manifest.json", b"")
    edit_weights(model, lambda weights: (weights.pop("surplus"), weights.pop("source_embedding.table.weight")))
    refused(model, r"'source_embedding.table.weight' \[\d+, 8\] is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pad", 100_000),
        ("unk", 100_000),
        ("mask", 100_000),
        *((key, [0, 100_000]) for key in ("start", "ends", "source_before", "source_after", "pair_between")),
        *((key, [0, 100_000]) for key in ("suppressed", "suppressed_first")),
        ("languages", {"fr": [100_000]}),
    ],
)
def test_ids_beyond_the_vocabulary(key: str, value: object, model: Path) -> None:
    edit(model, "text.json", lambda text: text.update({key: value}))
    refused(model, rf"text\.json: '{key}(\.fr)?' holds 100000, but the vocabulary has")


def test_fp16_that_overflows_is_not_saved(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(LINES, vocabulary=290)
    model = OPTIONS.build(tokenizer.size)
    with torch.no_grad():
        model.source_embedding.table.weight[0, 0] = 1e6
    with pytest.raises(RegardError, match="not finite"):
        directory.save(tmp_path / "x", model, OPTIONS, TextSettings(), tokenizer, dtype=torch.float16)
    assert not (tmp_path / "x").exists()


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegardError, match="nowhere: no such directory or packaged model"):
        directory.load("nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegardError, match="expected a model directory, found a file"):
        directory.load(tmp_path / "file")
    packages = tmp_path / "packaged"
    make(packages / "en-zh")
    monkeypatch.setattr(directory, "_packages", lambda: packages)
    monkeypatch.chdir(tmp_path)
    assert directory.packaged_names() == ["en-zh"]
    assert directory.load("en-zh").settings.target == "zh"
    with pytest.raises(RegardError, match="did you mean 'en-zh'"):
        directory.load("en-zhh")
    (tmp_path / "en-zh").mkdir()
    with pytest.raises(RegardError, match=r"not a model directory.*the directory wins"):
        directory.load("en-zh")


def test_a_device_that_is_not_there(original: Path) -> None:
    for device in ("cuda:77", "nonsense"):
        with pytest.raises(RegardError, match=f"device '{device}' cannot be used"):
            directory.load(original, device=device)


def logits(loaded: directory.Loaded, source: str, target: str) -> torch.Tensor:
    """The model's logits [T, V] for one pair."""
    sides = []
    for ids in (
        [*loaded.tokenizer.encode(source), *loaded.settings.ends],
        [*loaded.settings.start, *loaded.target_tokenizer.encode(target)],
    ):
        sides.append(Tokens(torch.tensor([ids]), torch.tensor([len(ids)])))
    with torch.no_grad():
        output = loaded.model(sides[1], loaded.model.encode(sides[0]))
        return loaded.model.logits(output.hidden)[0]


@pytest.mark.parametrize("folder", sorted(path for path in PAST.iterdir() if path.is_dir()), ids=lambda path: path.name)
def test_past_formats_load(folder: Path) -> None:
    """FOLDER.json says what the model gave when it was written (``python tests/test_directory.py`` writes one)."""
    expected = json.loads(folder.with_suffix(".json").read_text())
    found = logits(directory.load(folder), expected["source"], expected["target"])
    assert torch.allclose(found.mean(1), torch.tensor(expected["means"]), atol=1e-5)
    assert torch.allclose(found.std(1), torch.tensor(expected["deviations"]), atol=1e-5)


if __name__ == "__main__":
    folder = make(PAST / str(FORMAT_VERSION))
    found = logits(directory.load(folder), "a man reads", "我爱 two dogs")
    values = {"source": "a man reads", "target": "我爱 two dogs", "means": found.mean(1).tolist()}
    folder.with_suffix(".json").write_text(
        json.dumps({**values, "deviations": found.std(1).tolist()}, ensure_ascii=False)
    )
