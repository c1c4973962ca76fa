"""A translator of random weights into two languages."""

from __future__ import annotations

from pathlib import Path

import torch

from regard.directory import Loaded
from regard.models.registry import options_from
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

LINES = ["Two dogs play in the snow.", "A man rides a bicycle.", "Deux chiens jouent.", "Zwei Hunde spielen."] * 5
MARKS = {"de": (320,), "fr": (321,)}


def made(**settings: object) -> Loaded:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(LINES, vocabulary=330)
    small = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
    options = options_from({"architecture": "transformer", **small})
    model = options.build(tokenizer.size).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # or the source would hardly matter
    given = {"languages": MARKS, "source": "en", "max_length": 30, "suppressed": (0, 1, 2), **settings}
    return Loaded(model, options, TextSettings(**given), tokenizer, tokenizer, "", Path("toy"))  # type: ignore[arg-type]
