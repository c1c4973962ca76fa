"""``regard``, ``regard --help`` and the verbs' own help: quick, and without PyTorch."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from regard import __version__
from regard.cli.main import VERBS

from .conftest import PROGRAM, Regard, refused


def test_the_overview_lists_every_verb_with_an_example(regard: Regard) -> None:
    done = regard("--help")
    assert done.returncode == 0 and not done.stderr
    text = done.stdout.decode()
    for name, verb in VERBS.items():
        assert f"  {name} " in text and verb.summary in text
    assert "regard train train.zh train.en" in text
    for task in ("translator", "language model", "masked model", "classifier"):
        assert task in VERBS["train"].summary
    examples = text.partition("examples:")[2]
    assert all(f"regard {verb} " in examples for verb in ("train", "translate", "generate", "classify"))
    assert regard().stdout == done.stdout == regard("help").stdout


def test_the_overview_takes_less_than_300_ms() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([PROGRAM, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3, times


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_no_pytorch(verb: str) -> None:
    code = (
        "import sys; from regard.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'sacrebleu', 'matplotlib', 'tokenizers'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if verb:
        assert "Usage: regard " + verb in done.stdout
        assert f"regard {verb}" in done.stdout.partition("Example")[2] or verb == "bench", done.stdout


def test_help_of_a_verb_the_other_way_round(regard: Regard) -> None:
    assert regard("help", "score").stdout == regard("score", "--help").stdout == regard("score", "-h").stdout
    assert regard("bench", "decode", "--help").stdout == regard("bench", "decode", "-h").stdout


def test_version(regard: Regard) -> None:
    assert regard("--version").stdout.decode() == f"regard {__version__}\n"


def test_an_unknown_verb_suggests_the_nearest(regard: Regard) -> None:
    assert refused(regard("trane", "x")) == "unknown verb 'trane' — did you mean 'train'? (regard --help lists all)"


def test_an_unknown_option_is_one_line(regard: Regard) -> None:
    message = refused(regard("translate", "zh-en", "--bream", "5"))
    assert "--bream" in message and "regard translate --help" in message


def test_a_missing_argument_is_one_line(regard: Regard) -> None:
    assert "MODEL" in refused(regard("translate"))


def test_the_module_runs_too() -> None:
    done = subprocess.run([sys.executable, "-m", "regard", "--version"], capture_output=True, text=True)
    assert done.stdout == f"regard {__version__}\n"
