"""Every mistake in data or configuration: one line that names it, exit code 2, before anything is trained."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from .conftest import TINY, Regard, pairs, refused, write_corpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = pairs(120, seed=4)
    write_corpus(tmp_path, "train", rows[:100])
    write_corpus(tmp_path, "valid", rows[100:])
    (tmp_path / "tiny.toml").write_text(TINY, "utf-8")
    return tmp_path


def error_of(regard: Regard, folder: Path, *arguments: str) -> str:
    """The message of a training that must be refused; it leaves no model behind."""
    message = refused(regard("train", *(arguments or ("tiny.toml",)), cwd=folder))
    assert not list(folder.glob("runs/*/model.safetensors"))
    return message


def test_nothing_to_train(folder: Path, regard: Regard) -> None:
    assert "two text files" in error_of(regard, folder, "--force")


def test_a_missing_configuration(folder: Path, regard: Regard) -> None:
    assert error_of(regard, folder, "tinny.toml").startswith("tinny.toml: no such file")


def test_an_unknown_key_suggests_the_nearest(folder: Path, regard: Regard) -> None:
    (folder / "tiny.toml").write_text(TINY.replace("steps = 240", "step = 120"), "utf-8")
    assert error_of(regard, folder) == "tiny.toml: unknown key 'training.step' — did you mean 'training.steps'?"


def test_an_unknown_option_of_the_model(folder: Path, regard: Regard) -> None:
    (folder / "tiny.toml").write_text(TINY.replace("heads = 2", "head = 2"), "utf-8")
    assert "'model.head'" in (message := error_of(regard, folder)) and "'heads'" in message
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("line", "wrong", "expected"),
    [
        ("steps = 240", "steps = 0", "training.steps = 0: expected at least 1"),
        ("steps = 240", 'steps = "many"', "training.steps = 'many'"),
        ("vocabulary = 330", 'tokenizer = "bpf"', "expected one of bpe, unigram, characters — did you mean 'bpe'?"),
        ("vocabulary = 330", "vocabulary = 262", "vocabulary"),
        ("width = 32", "width = 33", "width=33 must be a multiple of heads=2"),
        ('source = "zh"', "", "'data.source' is missing"),
        ("[model]", "[model", "not valid TOML"),
    ],
)
def test_a_wrong_value(folder: Path, regard: Regard, line: str, wrong: str, expected: str) -> None:
    (folder / "tiny.toml").write_text(TINY.replace(line, wrong), "utf-8")
    assert expected in error_of(regard, folder)


def test_a_wrong_set(folder: Path, regard: Regard) -> None:
    assert "did you mean 'training.steps'?" in error_of(regard, folder, "tiny.toml", "--set", "training.stepps=3")
    assert "KEY=VALUE" in error_of(regard, folder, "tiny.toml", "--set", "training.steps")


def test_line_counts_that_differ(folder: Path, regard: Regard) -> None:
    text = (folder / "train.en").read_text("utf-8").splitlines(keepends=True)
    (folder / "train.en").write_text("".join(text[:-3]), "utf-8")
    message = error_of(regard, folder)
    assert "train.en has 97 lines" in message and "train.zh has 100" in message and "train.zh:98" in message


def test_bytes_that_are_not_utf8(folder: Path, regard: Regard) -> None:
    lines = (folder / "train.zh").read_bytes().split(b"\n")
    lines[41] = "五六".encode("gb18030")
    (folder / "train.zh").write_bytes(b"\n".join(lines))
    message = error_of(regard, folder)
    assert message.startswith("train.zh:42: ") and "UTF-8" in message and "iconv" in message


def test_no_line_separator_but_newline_divides_lines(folder: Path, regard: Regard) -> None:
    lines = (folder / "train.en").read_text("utf-8").split("\n")
    lines[3] += "\u2028two\x0cthree\x85four\rfive"
    (folder / "train.en").write_text("\n".join(lines), "utf-8")
    done = regard("train", "tiny.toml", "--steps", "1", "--save-every", "1", "--validate-every", "1", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()


def test_an_empty_corpus(folder: Path, regard: Regard) -> None:
    for language in ("zh", "en"):
        (folder / f"train.{language}").write_bytes(b"")
    assert "empty" in error_of(regard, folder)


def test_a_missing_corpus(folder: Path, regard: Regard) -> None:
    (folder / "valid.en").unlink()
    assert error_of(regard, folder).startswith("valid.en: no such file")


def test_a_corpus_with_nothing_left(folder: Path, regard: Regard) -> None:
    (folder / "train.en").write_bytes(b"\n" * 100)
    assert "no pair is left" in (message := error_of(regard, folder)) or "characters" in message


def test_a_compressed_file_that_is_cut_off(folder: Path, regard: Regard) -> None:
    whole = gzip.compress((folder / "train.zh").read_bytes())
    (folder / "train.zh").unlink()
    (folder / "train.zh.gz").write_bytes(whole[: len(whole) // 2])
    assert error_of(regard, folder).startswith("train.zh.gz: damaged or cut off")


def test_jsonl_without_the_key(folder: Path, regard: Regard) -> None:
    (folder / "train.jsonl").write_text('{"zh": "一", "english": "one"}\n', "utf-8")
    (folder / "tiny.toml").write_text(TINY.replace('train = "train"', 'train = "train.jsonl"'), "utf-8")
    assert error_of(regard, folder).startswith("train.jsonl:1: no key 'en'")


def test_faults_that_are_counted_not_refused(folder: Path, regard: Regard) -> None:
    """Empty sides, lines far too long, copies, repeats and overlap: each counted, with the first of its kind."""
    rows = [
        (source, target)
        for source, target in zip(
            (folder / "train.zh").read_text("utf-8").splitlines(),
            (folder / "train.en").read_text("utf-8").splitlines(),
            strict=True,
        )
    ]
    source, target = ((folder / f"valid.{language}").read_text("utf-8").splitlines()[0] for language in ("zh", "en"))
    rows[10] = ("", "one")
    rows[20] = ("一二三四五六七八九十" * 300, "one " * 3000)
    rows[30] = ("one", "one")
    rows[40] = rows[39]
    rows[50] = (source, target)
    write_corpus(folder, "train", rows)
    short = ("--steps", "1", "--save-every", "1", "--validate-every", "1")
    done = regard("train", "tiny.toml", *short, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stderr.decode()
    assert "100 pairs read, 98 to train on" in said
    for count, words, place in (
        ("1 pair", "with an empty side: left out", "train.zh:11"),
        ("1 pair", "longer than data.max_length: left out", "train.zh:21"),
        ("1 pair", "identical on both sides: kept", "train.zh:31"),
        ("1 pair", "equal to an earlier pair: kept", "train.zh:41"),
        ("1 pair", "found in the validation or test data: kept", "train.zh:51"),
    ):
        line = next(line for line in said.splitlines() if words in line)
        assert line.startswith(count) and place in line, line
    assert "data.remove_overlap" in said
    removed = regard("train", "tiny.toml", *short, "--remove-overlap", "--run", "clean", cwd=folder)
    assert "100 pairs read, 97 to train on" in removed.stderr.decode()


def test_two_files_without_languages(folder: Path, regard: Regard) -> None:
    (folder / "train.zh").rename(folder / "source")
    (folder / "train.en").rename(folder / "target")
    assert "--source-language" in error_of(regard, folder, "source", "target")


def test_two_files_of_one_language(folder: Path, regard: Regard) -> None:
    assert "both are 'zh'" in error_of(regard, folder, "train.zh", "valid.zh")


def test_one_text_file(folder: Path, regard: Regard) -> None:
    assert "other language" in error_of(regard, folder, "train.zh")


def test_a_cuda_device_that_is_not_there(folder: Path, regard: Regard) -> None:
    message = refused(regard("train", "tiny.toml", "--device", "cuda:7", cwd=folder, CUDA_VISIBLE_DEVICES=""))
    assert "cuda:7" in message


def test_an_unknown_device(folder: Path, regard: Regard) -> None:
    assert "'gpu'" in error_of(regard, folder, "tiny.toml", "--device", "gpu")


def test_a_start_that_is_not_there(folder: Path, regard: Regard) -> None:
    assert "nowhere" in error_of(regard, folder, "tiny.toml", "--init", "nowhere")


def test_a_run_directory_that_is_a_file(folder: Path, regard: Regard) -> None:
    (folder / "taken").write_text("mine")
    assert "taken" in error_of(regard, folder, "tiny.toml", "--run", "taken")
    assert (folder / "taken").read_text() == "mine"


def test_a_run_directory_that_cannot_be_written(folder: Path, regard: Regard) -> None:
    assert "cannot be written" in error_of(regard, folder, "tiny.toml", "--run", "/proc/regard-run")
