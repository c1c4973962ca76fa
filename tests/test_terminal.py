"""Text from a file or a client cannot steer the terminal on which it is shown."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.terminal import printable, printable_json

PROGRAM = Path(sys.executable).with_name("regard")
HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\r\nf"
STEERING = ("\x1b", "\x07", "\x9b", "\u202e", "\r")


@given(st.text())
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or all(
        character.isprintable() or character == "\xad" or ord(character) > 0x7F for character in shown
    )
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert printable(shown) == shown
    assert json.loads(printable_json(json.dumps(text, ensure_ascii=False))) == text


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert "\n" not in str(RegardError(f"{HOSTILE}: no such file")) and "\\x1b]0;" in str(RegardError(HOSTILE))


def said(*arguments: str, cwd: Path) -> str:
    """The output that a terminal shows: both streams are one."""
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=other, stderr=other, cwd=cwd, env=environment
    )
    os.close(other)
    found = b""
    while True:
        try:
            data = os.read(main, 1 << 16)
        except OSError:  # Linux's way to say that nobody is at the other end
            break
        if not data:
            break
        found += data
    process.wait(60)
    os.close(main)
    return found.decode("utf-8", "replace").replace("\r\n", "\n")


def clean(text: str) -> bool:
    # Rich moves the cursor to draw its live line; the hostile text has no part in it.
    return not any(wrong in text for wrong in ("\x1b]0;", "\x07", "\x1b[2Jc", "\x9b", "\u202e"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("translate", HOSTILE),
        ("params", f"{HOSTILE}.toml"),
        ("train", "bad.toml"),
        ("train", "odd.toml"),
        ("train", "--set", f"data.{HOSTILE}=1", "odd.toml"),
        ("translate", "model"),
        (HOSTILE,),
        ("translate", f"--{HOSTILE}"),
    ],
    ids=["model", "file", "key", "value", "set", "tensor", "verb", "option"],
)
def test_names_in_messages(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    key = json.dumps(HOSTILE)
    (tmp_path / "bad.toml").write_text(f"[data]\n{key} = 1\n".replace("\\u009b", "\x9b"), "utf-8")
    (tmp_path / "odd.toml").write_text(f"[data]\ntokenizer = {key}\n", "utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({"format_version": 1, "architecture": HOSTILE, "options": {}})
    )
    text = said(*arguments, cwd=tmp_path)
    assert "regard: error:" in text and clean(text), repr(text)
    lines = text.strip().split("\n")
    assert all(line.startswith("regard: ") for line in lines) and "error" not in "".join(lines[:-1]), repr(text)


def test_samples_and_translations(tmp_path: Path) -> None:
    lines = [f"{HOSTILE} {number}".replace("\n", " ") for number in range(60)]
    for language in ("zh", "en"):
        (tmp_path / f"t.{language}").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    small = "--set model.preset=tiny --set model.encoder_layers=1 --set model.decoder_layers=1 --threads 1"
    quick = "--steps 30 --save-every 30 --validate-every 15 --learning-rate 0.01 --warmup-steps 5"
    text = said("train", "t.zh", "t.en", *small.split(), *quick.split(), "-o", "run", cwd=tmp_path)
    assert "BLEU" in text and "\\x1b]0;title\\x07b" in text and clean(text), repr(text)
    text = said("translate", "run", "t.zh", cwd=tmp_path)
    assert text and clean(text)
    text = said("look", "run", lines[0], cwd=tmp_path)
    assert text and clean(text)
    piped = subprocess.run([PROGRAM, "translate", "run", "t.zh"], cwd=tmp_path, capture_output=True)
    assert b"\\x1b" not in piped.stdout  # a program gets what the model said
