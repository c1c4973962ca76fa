"""``regard translate`` as a filter: line N of the output for line N of the input, whatever comes in."""

from __future__ import annotations

import json
import lzma
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from regard.cli.demo import corpus

from .conftest import PROGRAM, Regard, refused

HOSTILE = {
    "empty": b"",
    "spaces": b"   \t ",
    "nul": b"\xe4\xb8\x80\x00\xe4\xba\x8c",
    "line separator": "一\u2028二\u2029三\x85四\x0b五\x0c六".encode(),
    "lone carriage return": "一\r二".encode(),
    "carriage return at the end": "一二\r".encode(),
    "emoji": "👩‍👩‍👧‍👦 🇨🇳 😀".encode(),
    "unknown script": "𐎀𐎁𐎂 ᚠᚢᚦ".encode(),
    "byte order mark": "\ufeff一".encode(),
    "bidi": "\u202e一二\u202c\u2066三\u2069".encode(),
    "special tokens": b"<s> </s> <pad> <unk> <0x0A>",
    "combining marks": ("e" + "\u0301" * 200).encode(),
    "replacement character": "\ufffd".encode(),
    "no character": "\ufffe\uffff".encode(),
    "tab": "一\t二".encode(),
    "three bars": "一 ||| 二".encode(),
    "full width": "ＡＢＣ１２３".encode(),
}


def test_a_line_for_a_line_whatever_comes_in(model: Path, regard: Regard) -> None:
    data = b"\n".join(HOSTILE.values()) + b"\n" + "一二三".encode()  # no newline at the end
    done = regard("translate", model, "--beam", "2", input=data)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.split(b"\n")
    assert lines.pop() == b"" and len(lines) == len(HOSTILE) + 1
    by_name = dict(zip(HOSTILE, lines, strict=False))
    assert by_name["empty"] == by_name["spaces"] == b""
    assert lines[-1] + b"\n" == regard("translate", model, "--beam", "2", input="一二三".encode()).stdout
    assert not re.search("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", done.stdout.decode()), "no reader sees more lines"


def test_the_same_lines_alone_give_the_same_output(model: Path, regard: Regard, tmp_path: Path) -> None:
    chosen = ["emoji", "nul", "full width"]
    together = regard("translate", model, input=b"\n".join(HOSTILE[name] for name in chosen)).stdout.split(b"\n")
    for name, line in zip(chosen, together, strict=False):
        assert regard("translate", model, input=HOSTILE[name]).stdout == line + b"\n", name


def test_no_input_gives_no_output(model: Path, regard: Regard) -> None:
    done = regard("translate", model, input=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert regard("translate", model, input=b"\n").stdout == b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["一", "一二三。", "一 "], ids=["no space", "sentences", "spaces"])
def test_a_line_of_one_megabyte(model: Path, regard: Regard, unit: str) -> None:
    long = unit * (1_000_000 // len(unit.encode()))
    done = regard("translate", model, "--beam", "1", input=f"一\n{long}\n二\n".encode(), timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    lines = done.stdout.decode().split("\n")
    assert len(lines) == 4 and lines[0] and lines[2] and len(lines[1]) > 10_000
    assert re.search("^regard: line 2 .*parts", done.stderr.decode(), re.M)


def test_a_long_line_is_translated_in_parts_and_named(model: Path, regard: Regard) -> None:
    done = regard("translate", model, input=("一\n" + "二四三。" * 40 + "\n").encode())
    assert done.returncode == 0 and done.stdout.count(b"\n") == 2
    assert re.search("^regard: line 2 .*parts", done.stderr.decode(), re.M)
    assert done.stdout.count(b"three") >= 20, "nothing is cut off"


def test_a_file_and_standard_input_give_the_same(workshop: Path, model: Path, regard: Regard) -> None:
    path = workshop / "test.zh"
    from_file = regard("translate", model, path)
    assert from_file.returncode == 0 and from_file.stdout.count(b"\n") == 60
    assert regard("translate", model, input=path.read_bytes()).stdout == from_file.stdout
    assert regard("translate", model, "-", "--batch-tokens", "64", input=path.read_bytes()).stdout == from_file.stdout


def test_the_model_has_learnt_the_toy_language(workshop: Path, model: Path, regard: Regard) -> None:
    found = regard("translate", model, workshop / "test.zh").stdout.decode().splitlines()
    wanted = (workshop / "test.en").read_text("utf-8").splitlines()
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) > 45


def test_n_best_with_scores(model: Path, regard: Regard) -> None:
    done = regard("translate", model, "--n-best", "3", "--beam", "4", input="一二\n\n三四\n".encode())
    assert done.returncode == 0, done.stderr.decode()
    rows = [line.split(" ||| ") for line in done.stdout.decode().splitlines()]
    assert [row[0] for row in rows] in (["0"] * 3 + ["1"] + ["2"] * 3, ["0"] * 3 + ["1"] * 3 + ["2"] * 3)
    assert all(len(row) == 3 and float(row[2]) <= 0 for row in rows)
    assert len({row[1] for row in rows[:3]}) == 3
    assert float(rows[0][2]) > float(rows[1][2]) > float(rows[2][2]) or len({row[1].count(" ") for row in rows[:3]}) > 1


def test_scores_and_alignments_stand_behind_the_text(model: Path, regard: Regard) -> None:
    done = regard("translate", model, "--scores", "--alignments", input="一二三\n".encode())
    text, score, links = done.stdout.decode().removesuffix("\n").split(" ||| ")
    assert text.split() and float(score) < 0
    assert re.fullmatch(r"\d+-\d+( \d+-\d+)*", links)


def test_json_lines(model: Path, regard: Regard) -> None:
    done = regard("translate", model, "--json", "--alignments", "--n-best", "2", input="一二\n\n".encode())
    first, second = (json.loads(line) for line in done.stdout.decode().splitlines())
    assert first["text"] and first["score"] <= 0 and len(first["alternatives"]) == 1
    assert first["tokens"] and first["source_tokens"] and "-" in first["alignment"]
    assert second["text"] == "" and second["tokens"] == []


def test_beam_and_greedy_may_differ_and_both_are_deterministic(workshop: Path, model: Path, regard: Regard) -> None:
    greedy = [regard("translate", model, workshop / "test.zh", "-b", "1").stdout for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_bytes_that_are_not_utf8_name_their_line(model: Path, regard: Regard, tmp_path: Path) -> None:
    path = tmp_path / "gb.txt"
    path.write_bytes("一\n".encode() + "二三\n".encode("gb18030"))
    message = refused(regard("translate", model, path))
    assert message.startswith(f"{path}:2: ") and "UTF-8" in message
    assert "-:2: " in refused(regard("translate", model, input=path.read_bytes()))
    done = regard("translate", model, path, "--replace-invalid")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 2 and b"line 2" in done.stderr


def test_the_length_penalty_is_the_runs_where_none_is_given(model: Path, regard: Regard) -> None:
    given, power, gnmt = (
        json.loads(regard("translate", model, "--json", *penalty, input="一二三四".encode()).stdout)["normalized"]
        for penalty in ([], ["--length-penalty", "power:1.0"], ["--length-penalty", "gnmt:0.6"])
    )
    assert given == power != gnmt


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--n-best", "9"], "n-best"),
        (["--beam", "0"], "--beam"),
        (["--length-penalty", "wu:1"], "gnmt"),
        (["--dtype", "int3"], "int3"),
        (["--device", "gpu"], "gpu"),
        (["nowhere.txt"], "nowhere.txt: no such file"),
        (["."], "folder"),
    ],
)
def test_wrong_options(model: Path, regard: Regard, arguments: list[str], expected: str) -> None:
    assert expected in refused(regard("translate", model, *arguments, input=b"x\n"))


def test_a_cuda_device_that_is_not_there(model: Path, regard: Regard) -> None:
    message = refused(regard("translate", model, "--device", "cuda", input=b"x\n", CUDA_VISIBLE_DEVICES=""))
    assert "cuda" in message and "use cpu" in message


def test_int8_translates_nearly_as_fp32(regard: Regard) -> None:
    dev = lzma.decompress((corpus() / "dev.zh.xz").read_bytes()).split(b"\n")[:60]
    full, narrow = (
        regard("translate", "zh-en", "--dtype", dtype, input=b"\n".join(dev)).stdout.decode().split("\n")
        for dtype in ("fp32", "int8")
    )
    assert len(narrow) == len(full) == 61
    # Weights in 7 bits move scores by about a hundredth: most sentences, but not all, have a winner that stands.
    assert sum(one == other for one, other in zip(full, narrow, strict=True)) > 45
    message = refused(regard("translate", "zh-en", "--dtype", "int8", "--backend", "ctranslate2", input=b"x\n"))
    assert "give ctranslate2:int8, and no dtype" in message


def test_a_reader_that_goes_away_is_no_error(workshop: Path, model: Path) -> None:
    lines = (workshop / "train.zh").read_bytes() * 20
    process = subprocess.Popen(
        [PROGRAM, "translate", model, "-b", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    try:
        process.stdin.write(lines)
        process.stdin.close()
    except BrokenPipeError:
        pass
    said = process.stderr.read().decode()
    assert process.wait(120) == 141 and "Traceback" not in said and "Broken pipe" not in said


def test_control_c_ends_it_with_130(model: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [PROGRAM, "translate", model, "--json"], stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(read)
    os.write(write, "一\n".encode() * 1024)  # as many lines as are read before the first is given back
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    os.close(write)
    assert process.returncode == 130 and said.decode().strip().endswith("regard: stopped")
