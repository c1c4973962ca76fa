"""From files to shards: what is kept, what is left out, what is found again, and what is built anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_task import prepare
from regard.config import Config, DataConfig
from regard.data import prepare as module
from regard.data.checks import Overlap
from regard.data.corpus import read_pairs
from regard.data.prepare import Prepared, learnt_length
from regard.errors import RegardError
from regard.text.normalize import normalizer

TRAIN = [
    ("我爱你", "I love you"),
    ("", "nothing here"),
    ("你好", "hello"),
    ("同", "同"),
    ("我爱你", "I love you"),
    ("12345678901234567890", "no"),
    ("1" * 200, "a long one"),
    ("你 好 吗", "how are you"),
]
VALID = [("你好", "hello!"), ("", "empty"), ("新", "new")]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    def write(name: str, pairs: list[tuple[str, str]]) -> None:
        for side, language in enumerate(("zh", "en")):
            (tmp_path / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs))

    write("train", TRAIN)
    write("more", [("更多", "more"), ("新", "more news")])
    write("valid", VALID)
    return tmp_path


def config(files: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "train": (str(files / "train"), str(files / "more")),
        "valid": str(files / "valid"),
        "source": "zh",
        "target": "en",
        "vocabulary": 330,
        "max_length": 64,
        "max_ratio": 4.0,
    }
    return Config(data=DataConfig(**{**values, **changes}))


def texts(prepared: Prepared) -> list[tuple[str, str]]:
    train = prepared.train
    return [(train.text(0, index), train.text(1, index)) for index in range(len(train))]


def test_what_is_kept_and_what_is_counted(files: Path) -> None:
    prepared = prepare(config(files), files / "run" / "data")
    kept = [pair for pair in TRAIN if pair[0] and len(pair[0]) < 100]
    assert texts(prepared) == [*kept, ("更多", "more"), ("新", "more news")]
    assert prepared.train.corpus_of.tolist() == [0] * 6 + [1] * 2
    assert prepared.train.where(1) == f"{files}/train.zh:3" and prepared.train.where(7) == f"{files}/more.zh:2"
    assert prepared.report.examples == 10 and prepared.report.left_out == 2
    assert prepared.report.found == {
        "empty": (1, f"{files}/train.zh:2"),
        "overlap": (2, f"{files}/train.zh:3 = {files}/valid.zh:1"),
        "identical": (1, f"{files}/train.zh:4"),
        "too_long": (1, f"{files}/train.zh:7"),
        "misaligned": (1, f"{files}/train.zh:6"),
        "duplicate": (1, f"{files}/train.zh:5"),
    }
    assert prepared.report.overlap == {"valid": (2, f"first: {files}/train.zh:3 = {files}/valid.zh:1")}
    assert [prepared.valid.text(1, index) for index in range(3)] == [pair[1] for pair in VALID]
    assert prepared.valid.lengths[0][1] == 0
    assert prepared.test is None and prepared.target_tokenizer is prepared.tokenizer


def test_ids_lengths_and_texts_agree(files: Path) -> None:
    prepared = prepare(config(files), files / "data")
    train, tokenizer = prepared.train, prepared.tokenizer
    for index, (source, target) in enumerate(texts(prepared)):
        assert train.ids(0, index).tolist() == tokenizer.encode(source)
        assert train.ids(1, index).tolist() == tokenizer.encode(target)
        assert train.lengths[0][index] == len(tokenizer.encode(source))
    assert train.lengths[0].dtype == train.lengths[1].dtype == np.int32
    assert isinstance(train._ids[0], np.memmap) and not train._ids[0].flags.writeable
    with pytest.raises(IndexError):
        train.ids(0, len(train))
    assert learnt_length(train) >= 16


def test_a_second_run_builds_nothing(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(config(files), files / "data")
    monkeypatch.setattr(module, "build", None)
    said: list[str] = []
    again = prepare(config(files), files / "data", say=said.append)
    assert said == [] and texts(again) == texts(first)
    assert again.fingerprint == first.fingerprint == again.train.fingerprint
    assert again.report == first.report and again.tokenizer.fingerprint == first.tokenizer.fingerprint


def test_shards_of_earlier_runs_are_found_again(tmp_path: Path) -> None:
    """A run goes on only if the fingerprint is the one that it was begun with: this is one of regard 1's."""
    rows = [("我爱你", "I love you"), ("", "nothing"), ("你好", "hello"), ("同", "同")]
    rows += [("我爱你", "I love you"), ("12345678901234567890", "no")]
    for side, language in enumerate(("zh", "en")):
        for name in ("train", "valid"):
            (tmp_path / f"{name}.{language}").write_text("".join(row[side] + "\n" for row in rows), "utf-8")
    given = {"train": (str(tmp_path / "train"),), "valid": str(tmp_path / "valid"), "source": "zh", "target": "en"}
    data = DataConfig(**given, vocabulary=330, max_length=64)  # type: ignore[arg-type]
    expected = "2d027dff7dbe1b6a2481385104f66ab6f222feb57f807d8896b8e0b1d04acfba"
    assert prepare(Config(data=data), tmp_path / "data", expected=expected).fingerprint == expected
    names = {path.name for path in (tmp_path / "data").glob("train.*")}
    parts = ("text", "ids", "text.ends", "ids.ends")
    assert names == {
        "train.corpus", "train.line", *(f"train.{side}.{part}" for side in ("source", "target") for part in parts),
    }  # fmt: skip


def test_anything_that_matters_builds_it_again(files: Path) -> None:
    seen = {prepare(config(files), files / "data").fingerprint}
    for changes in ({"max_length": 32}, {"tokenizer": "unigram"}, {"normalize": ("nfkc",)}, {"joint": False}):
        said: list[str] = []
        prepared = prepare(config(files, **changes), files / "data", say=said.append)
        assert said[0] == f"{files}/data: made from other data or settings; building it again"
        seen.add(prepared.fingerprint)
    with (files / "more.zh").open("a") as source, (files / "more.en").open("a") as target:
        source.write("加\n")
        target.write("plus\n")
    prepared = prepare(config(files), files / "data")
    seen.add(prepared.fingerprint)
    assert texts(prepared)[-1] == ("加", "plus")
    assert len(seen) == 6
    # What the shards do not depend on does not matter.
    same = config(files, subword_dropout=0.1, shares=(1.0, 2.0))
    assert prepare(replace(same, seed=9), files / "data").fingerprint == prepared.fingerprint


def test_damage_is_found_and_mended(files: Path) -> None:
    whole = prepare(config(files), files / "data")
    expected = texts(whole)
    for name in ("train.source.ids", "train.target.text.ends", "tokenizer.json", "data.json", "manifest.json"):
        for damage in ("flip", "cut", "remove"):
            path = files / "data" / name
            data = bytearray(path.read_bytes())
            if damage == "flip":
                data[len(data) // 2] ^= 4
            if damage == "remove":
                path.unlink()
            else:
                path.write_bytes(data[:-3] if damage == "cut" else data)
            said: list[str] = []
            prepared = prepare(config(files), files / "data", say=said.append)
            assert "building it again" in said[0], (name, damage)
            assert texts(prepared) == expected and prepared.fingerprint == whole.fingerprint


def test_overlap_is_removed_when_asked(files: Path) -> None:
    prepared = prepare(config(files, remove_overlap=True), files / "data")
    assert ("你好", "hello") not in texts(prepared) and ("新", "more news") not in texts(prepared)
    assert prepared.report.left_out == 4
    assert any("2 pairs found in the validation or test data: left out" in line for line in prepared.report.lines())


def test_separate_vocabularies(files: Path) -> None:
    prepared = prepare(config(files, joint=False), files / "data")
    assert prepared.tokenizer.fingerprint != prepared.target_tokenizer.fingerprint
    assert prepared.train.ids(1, 0).tolist() == prepared.target_tokenizer.encode("I love you")
    assert "<0xE6>" in prepared.target_tokenizer.tokens(prepared.target_tokenizer.encode("我"))


def test_given_tokenizers_are_used(files: Path) -> None:
    given = prepare(config(files, normalize=("nfkc", "lower")), files / "data").tokenizer
    prepared = prepare(config(files, vocabulary=8000), files / "other", tokenizers=(given, given))
    assert prepared.tokenizer.fingerprint == given.fingerprint
    assert prepared.tokenizer.normalization == ("nfkc", "lower")
    assert prepared.train.ids(1, 0).tolist() == given.encode("i love you")


def test_a_cache_is_shared_by_configurations(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(files / "cache")
    for length in (64, 32):
        prepare(config(files, cache=cache, max_length=length), files / "unused")
    assert len([path for path in (files / "cache").iterdir() if path.is_dir()]) == 2
    assert not (files / "unused").exists()
    monkeypatch.setattr(module, "build", None)
    prepare(config(files, cache=cache), files / "unused")


def test_faults_leave_nothing_behind(files: Path) -> None:
    (files / "more.en").write_bytes(b"one\n\xff\n")
    with pytest.raises(RegardError, match=r"more\.en:2: byte 1"):
        prepare(config(files), files / "data")
    assert not (files / "data").exists() and not list(files.glob(".data.p*"))
    (files / "more.zh").write_text("一\n二\n")
    (files / "more.en").write_text("\n \n")
    with pytest.raises(RegardError, match="no pair is left to train on: 2 pairs read, 0 to train on; 2 pairs with an"):
        prepare(config(files, train=(str(files / "more"),)), files / "data")
    with pytest.raises(RegardError, match=r"data\.valid: standard input can be read only once"):
        prepare(config(files, valid="-"), files / "data")


def test_two_processes_build_once(files: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from regard.config import *; from regard.data.prepare import prepare\n"
        "from regard.tasks import task_named\n"
        "folder = Path(sys.argv[1])\n"
        "data = DataConfig(train=(str(folder / 'train'),), valid=str(folder / 'valid'), source='zh', target='en',\n"
        "    vocabulary=330, max_length=64)\n"
        "columns = task_named('translation').columns(data)\n"
        "said = []; print(len(prepare(Config(data=data), folder / 'data', columns, say=said.append).train), len(said))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(files)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = sorted(process.communicate()[0].split() for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert printed == [["6", "0"], ["6", "0"], ["6", "2"]]


def test_a_full_disk_is_one_line(files: Path) -> None:
    """A limit on the size of files stands for the full disk; a real one is filled in the tests of faults."""
    script = (
        "import sys, resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from pathlib import Path; from regard.config import *; from regard.data.prepare import prepare\n"
        "from regard.tasks import task_named\n"
        "from regard.errors import RegardError\n"
        "folder = Path(sys.argv[1])\n"
        "data = DataConfig(train=(str(folder / 'train'),), valid=str(folder / 'valid'), source='zh', target='en',\n"
        "    vocabulary=330, max_length=64)\n"
        "columns = task_named('translation').columns(data)\n"
        "try: prepare(Config(data=data), folder / 'data', columns)\n"
        "except RegardError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", script, str(files)], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in printed.stdout
    assert not (files / "data").exists()


@pytest.mark.parametrize(("name", "valid", "found"), [("3am-zh-en", "val", 4), ("tatoeba-zh-en", "dev", 0)])
def test_real_overlap(name: str, valid: str, found: int, corpus: Callable[[str], Path]) -> None:
    """As published, 3AM's validation part has four sentences of its training part; Tatoeba's has none."""
    folder = corpus(name)
    data = DataConfig(train=(str(folder / "train"),), valid=str(folder / valid), source="zh", target="en")
    overlap = Overlap(normalizer(data.normalize))
    overlap.expect("valid", read_pairs(data.valid, data))
    met = [pair.where for pair in read_pairs(data.train[0], data) if overlap.meets(pair)]
    assert len(met) == found
    assert overlap.found().get("valid", (0, ""))[0] == found
