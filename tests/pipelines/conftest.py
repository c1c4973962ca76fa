"""Encoders of random weights, with a tokenizer of regard's own and with one as BERT's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers

from regard.directory import Loaded
from regard.models.encoder import Encoder
from regard.models.heads import Head, MaskedWords, TextLabels, TokenLabels
from regard.nn.positions import Learned
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = "the capital of france is paris london walk a b c . , ! ##s ##ing ##x 我 爱 学"
CORPUS = ["the capital of france is paris", "walking in london, she walks", "我爱机器学习。"]
CORPUS += ["a café is 100 years old."]
HEADS: dict[str, Head] = {"classification": TextLabels(), "tagging": TokenLabels(), "masked": MaskedWords()}
LABELS = {"classification": ("good", "bad", "中性"), "tagging": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")}

Make = Callable[..., Loaded]


@pytest.fixture(scope="session")
def wordpiece() -> Tokenizer:
    """Words in lower case, single signs and single Chinese characters, as BERT's tokenizer cuts them."""
    vocabulary = {piece: number for number, piece in enumerate((*SPECIALS, *PIECES.split()))}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(inner)


@pytest.fixture(scope="session")
def own() -> Tokenizer:
    """Subwords of regard's own kind."""
    return Tokenizer.train(CORPUS * 9, vocabulary=340, normalize=("nfc", "lower"))


@pytest.fixture(scope="session")
def make(wordpiece: Tokenizer) -> Make:
    """``make("tagging")``: a model of the task, of 16 positions, whose weights are wide, so that texts differ."""

    def made(task: str, tokenizer: Tokenizer = wordpiece, length: int = 16, **changes: Any) -> Loaded:
        torch.manual_seed(3)
        options = Encoder(
            width=32,
            layers=2,
            heads=2,
            feedforward=64,
            positions=Learned(length=length),
            head=HEADS[task],
            labels=LABELS.get(task, ()),
        )
        model = options.build(tokenizer.size).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        marks: dict[str, Any] = {"source_before": (2,), "source_after": (3,), "pair_between": (3,), "segments": True}
        marks |= {"mask": 4} if tokenizer is wordpiece else {"mask": 1, "normalize": tokenizer.normalization}
        settings = TextSettings(**{**marks, **changes})
        return Loaded(model, options, settings, tokenizer, tokenizer, "", Path("tiny"), task)

    return made
