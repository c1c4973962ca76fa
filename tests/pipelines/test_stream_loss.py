"""The loss of a language model on a stream: every token once, each block by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from regard.directory import Loaded
from regard.errors import RegardError
from regard.models.decoder import DecoderOnly
from regard.nn.sequences import Tokens
from regard.pipelines.stream_loss import stream_loss
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def language_model(own: Tokenizer) -> Any:
    def make(**marks: Any) -> Loaded:
        torch.manual_seed(2)
        options = DecoderOnly(width=32, layers=1, heads=2, feedforward=32)
        settings = TextSettings(**{"start": (3,), "ends": (3,), "source_after": (), "max_length": 8, **marks})
        model = options.build(own.size).eval()
        return Loaded(model, options, settings, own, own, "", Path("tiny"), "language_model")

    return make


def by_hand(loaded: Loaded, stream: list[int], first: int) -> float:
    """The loss of ``stream`` from token ``first`` on, in blocks of 8 that begin with the last token before."""
    total = 0.0
    for at in range(0, len(stream) - 1, 8):
        block = torch.tensor([stream[at : at + 9]])
        with torch.inference_mode():
            hidden = loaded.model(Tokens(block[:, :-1], torch.tensor([block.shape[1] - 1])), None).hidden
            losses = F.cross_entropy(loaded.model.logits(hidden)[0], block[0, 1:], reduction="none")
        total += float(losses[max(0, first - at - 1) :].sum())
    return total


@pytest.mark.parametrize("start", [(), (3,), (2, 3)])
@pytest.mark.parametrize("length", [2, 7, 8, 9, 16, 17, 43])
def test_every_token_is_predicted_once(language_model: Any, start: tuple[int, ...], length: int) -> None:
    loaded = language_model(start=start)
    ids = torch.randint(0, loaded.tokenizer.size, (length,)).tolist()
    for batch_tokens in (1, 4096):
        found = stream_loss(loaded, ids, batch_tokens)
        assert found.tokens == length - (not start)
        # sums of fp32 losses in another order
        assert found.nats == pytest.approx(by_hand(loaded, [*start, *ids], len(start)), rel=1e-5)


def test_too_short_texts_and_other_tasks(language_model: Any, make: Any) -> None:
    with pytest.raises(RegardError, match="a text of 1 tokens: expected two or more"):
        stream_loss(language_model(start=()), [5])
    with pytest.raises(RegardError, match="task is masked: it does not continue texts"):
        stream_loss(make("masked"), [5, 6])
