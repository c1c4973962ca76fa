"""The work of training, counted and not timed: structure that keeps it fast."""

from __future__ import annotations

import torch
from torch import nn

from regard.models.transformer import Transformer
from regard.nn.sequences import Tokens


def test_in_training_products_norms_and_dropout_see_real_tokens_only() -> None:
    model = Transformer(width=16, heads=2, feedforward=32, encoder_layers=2, decoder_layers=2).build(50).train()
    source = Tokens(torch.randint(4, 50, (3, 9)), torch.tensor([9, 2, 4]))
    target = Tokens(torch.randint(4, 50, (3, 7)), torch.tensor([1, 7, 3]))
    rows: dict[str, set[int]] = {"encoder": set(), "decoder": set(), "memory": set()}

    def count(name: str) -> None:
        side = "memory" if name.endswith(".key_value") else name.split(".")[0]

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
            rows[side].add(inputs[0].numel() // inputs[0].shape[-1])

        model.get_submodule(name).register_forward_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            count(name)
    model(target, model.encode(source))
    assert rows == {"encoder": {15}, "decoder": {11}, "memory": {15}}
