"""What the oracles of Hugging Face models share: random models in fp64, their folders, and ours read from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


def config_for(kind: str, **sizes: Any) -> Any:
    """Their configuration of a family, which reads the changes of its sizes."""
    return getattr(transformers, kind)(vocab_size=V, **sizes)
