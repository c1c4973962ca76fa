"""Models of random weights in model directories, and the program run in this process: quicker than a new one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers

from regard import directory
from regard.cli.main import main
from regard.models.decoder import DecoderOnly
from regard.models.encoder import Encoder
from regard.models.heads import Head, MaskedWords, TextLabels, TokenLabels
from regard.nn.positions import Learned
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] the capital of france is paris a b c . , ! 我 爱 ##s"
LABELS = ("good", "bad", "中性")
Done = tuple[int, str, str]
Run = Callable[..., Done]


def write_encoders(base: Path) -> None:
    """Model directories named by their tasks."""
    inner = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES.split())}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = Tokenizer(inner)
    marks: dict[str, Any] = {"source_before": (2,), "source_after": (3,), "pair_between": (3,), "segments": True}
    settings = TextSettings(**marks, mask=4)
    kinds: dict[str, tuple[Head, tuple[str, ...]]] = {
        "classification": (TextLabels(), LABELS),
        "tagging": (TokenLabels(), ("O", "B-PER", "I-PER")),
        "masked": (MaskedWords(), ()),
    }
    for task, (head, labels) in kinds.items():
        torch.manual_seed(4)
        sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}
        options = Encoder(**sizes, positions=Learned(length=12), head=head, labels=labels)
        model = options.build(tokenizer.size)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        directory.save(base / task, model, options, settings, tokenizer, task=task)
    decoder = DecoderOnly(width=16, layers=1, heads=2, feedforward=16)
    settings = TextSettings(start=(3,), ends=(3,), source_after=(), max_length=16)
    directory.save(base / "language_model", decoder.build(tokenizer.size), decoder, settings, tokenizer)


def here(base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("classify", "classification", …)``: exit code, standard output and standard error; models by task."""

    def run(verb: str, task: str, *arguments: object, input: bytes = b"") -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(input), encoding="utf-8"))
        code = main([verb, str(base / task), *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refused_here(done: Done) -> str:
    """The message of a run that ended as a user's error must."""
    code, out, err = done
    assert code == 2 and not out, done
    assert err.count("\n") == 1 and err.startswith("regard: error: "), err
    return err.removeprefix("regard: error: ").strip()
