"""What the oracles of Hugging Face models share: random models in fp64, their folders, and ours read from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from regard.directory import Loaded
from regard.interop import published
from regard.nn.sequences import Tokens

V = 61
EOS = 1


def drawn(model: Any, seed: int) -> Any:
    """The model in fp64, its weights drawn wide, so that everything in it matters and no two tokens tie."""
    torch.manual_seed(seed)
    model = model.double().eval()
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() and "weight" in name
        small = norm or "bias" in name
        nn.init.normal_(parameter, float(norm), 0.2 if small else 1.6 / parameter.shape[-1] ** 0.5)
    return model


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """Within the block their root-mean-square norms compute in the input's precision, and not in fp32."""

    def norm(self: Any, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    before = {kind: kind.forward for kind in (LlamaRMSNorm, T5LayerNorm)}
    for kind in before:
        kind.forward = norm
    try:
        yield
    finally:
        for kind, forward in before.items():
            kind.forward = forward


def saved(model: Any, folder: Path) -> Path:
    """The folder that their library writes."""
    model.save_pretrained(folder)
    return folder


def opened(model: Any, folder: Path, dtype: torch.dtype = torch.float64) -> Loaded:
    """The model as we read it from a folder that they wrote."""
    return published.load(saved(model, folder), dtype=dtype)


def sentences(seed: int, lengths: list[int]) -> Tokens:
    """Random ids, padded with 0 on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V, (len(lengths), max(lengths)), generator=generator)
    counts = torch.tensor(lengths)
    return Tokens(ids * mask_of(Tokens(ids, counts)), counts)


def mask_of(tokens: Tokens) -> Tensor:
    """Their attention mask."""
    return (torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).long()


def worst(got: Tensor, expected: Tensor, lengths: Tensor) -> float:
    """max|a − b| / max|b| of the worst sentence, real positions only."""
    pairs = [(got[b, :n], expected[b, :n]) for b, n in enumerate(lengths.tolist())]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def inputs(seed: int) -> list[list[list[int]]]:
    """Twenty inputs in five groups of equal lengths, since their limit is one for a batch."""
    return [sentences(seed + length, [length] * 4).ids.tolist() for length in (1, 3, 5, 8, 11)]


def generated(model: Any, before: list[int], ids: list[list[int]], after: list[int], search: Any, **more: Any) -> Any:
    """What their ``generate`` finds for a group with marks, by our ``search``; the new tokens, up to an end mark."""
    rows = torch.tensor([[*before, *one, *after] for one in ids])
    beams = {"length_penalty": search.length_penalty.alpha, "early_stopping": "never"} if search.beam > 1 else {}
    with torch.inference_mode(), lifted():
        out = model.generate(
            rows, attention_mask=torch.ones_like(rows), num_beams=search.beam, do_sample=False,
            max_new_tokens=len(ids[0]) + search.max_extra, **beams, **more,
        )  # fmt: skip
    given = 1 if model.config.is_encoder_decoder else rows.shape[1]
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [list(takewhile(lambda token: token not in ends, row[given:])) for row in out.tolist()]


def check_search(ours: Any, theirs: list[Any]) -> None:
    """The same outputs, and of many kinds: weights that say one thing whatever they read would agree with anything."""
    assert [result.hypotheses[0].ids for result in ours] == theirs
    assert len(set(map(tuple, theirs))) >= 10 and len({token for ids in theirs for token in ids}) >= 8


def config_for(kind: str, **sizes: Any) -> Any:
    """Their configuration of a family, which reads the changes of its sizes."""
    return getattr(transformers, kind)(vocab_size=V, **sizes)
