"""The same weights in ``torch.nn.Transformer`` give the same outputs and gradients."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from regard.models.transformer import Transformer
from regard.nn.layout import Layout
from regard.nn.stacks import TransformerStack

D, H, F, LAYERS = 32, 4, 64, 2

#: Names in torch.nn.Transformer's layers → ours; weights are the same matrices, so gradients map alike.
NAMES = {
    "self_attn.in_proj_": "self_attention.query_key_value.",
    "self_attn.out_proj.": "self_attention.output.",
    "multihead_attn.in_proj_": "cross_attention.",
    "multihead_attn.out_proj.": "cross_attention.output.",
    "linear1.": "feedforward.input.",
    "linear2.": "feedforward.output.",
}
NORMS = {
    "encoder": ["self_attention_residual.norm.", "feedforward_residual.norm."],
    "decoder": ["self_attention_residual.norm.", "cross_attention_residual.norm.", "feedforward_residual.norm."],
}


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """max|a - b| / max|b| of one tensor."""
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def ours_by_their_names(stacks: dict[str, TransformerStack], gradient: bool) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the names and shapes that torch.nn.Transformer gives them."""
    found: dict[str, Tensor] = {}
    for side, stack in stacks.items():
        tensors = {name: p.grad if gradient else p.data for name, p in stack.named_parameters()}
        for kind in ("weight", "bias"):
            found[f"{side}.norm.{kind}"] = tensors[f"norm.{kind}"]
            for i in range(LAYERS):
                ours, theirs = f"layers.{i}.", f"{side}.layers.{i}."
                for number, norm in enumerate(NORMS[side], 1):
                    found[f"{theirs}norm{number}.{kind}"] = tensors[f"{ours}{norm}{kind}"]
                for their_name, our_name in NAMES.items():
                    if our_name == "cross_attention.":
                        if side == "decoder":
                            parts = [tensors[f"{ours}{our_name}{name}.{kind}"] for name in ("query", "key_value")]
                            found[f"{theirs}{their_name}{kind}"] = torch.cat(parts)
                    elif f"{ours}{our_name}{kind}" in tensors:
                        found[f"{theirs}{their_name}{kind}"] = tensors[f"{ours}{our_name}{kind}"]
    return found


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
# In fp32 draws of 0.3 let the rounding of two kernels differ by up to 1.4e-5 (pre-norm, gelu); fp64 keeps them.
@pytest.mark.parametrize(("dtype", "tolerance", "spread"), [(torch.float32, 1e-5, 0.2), (torch.float64, 1e-10, 0.3)])
def test_same_weights_same_outputs_and_gradients(
    order: Literal["post", "pre"],
    padded: bool,
    activation: Literal["relu", "gelu"],
    dtype: torch.dtype,
    tolerance: float,
    spread: float,
) -> None:
    torch.manual_seed(0)
    options = Transformer(
        width=D, heads=H, feedforward=F, encoder_layers=LAYERS, decoder_layers=LAYERS, dropout=0.0,
        order=order, activation=activation, final_norm=True,
    )  # fmt: skip
    theirs = nn.Transformer(
        D, H, LAYERS, LAYERS, F, dropout=0.0, activation=activation, batch_first=True, norm_first=order == "pre"
    ).to(dtype)
    tree = options.tree()
    encoder, decoder = (spec.build(D).to(dtype) for spec in (tree.encoder, tree.decoder))
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, 0, spread)  # biases and gains too, and wide enough that nothing is nearly 0
    stacks = {"encoder": encoder, "decoder": decoder}
    theirs.load_state_dict(ours_by_their_names(stacks, gradient=False))

    B, S, T = 3, 7, 5
    source_lengths = torch.tensor([7, 4, 2] if padded else [S] * B)
    target_lengths = torch.tensor([3, 5, 1] if padded else [T] * B)
    source, target = torch.randn(B, S, D, dtype=dtype), torch.randn(B, T, D, dtype=dtype)
    weight = torch.randn(B, T, D, dtype=dtype)  # what the output is multiplied with, so that its gradient is random
    source_padding = torch.arange(S) >= source_lengths[:, None]
    target_padding = torch.arange(T) >= target_lengths[:, None]
    weight[target_padding] = 0

    x, y = source.clone().requires_grad_(), target.clone().requires_grad_()
    memory = encoder(x, Layout.padded(source_lengths, S))
    out = decoder(
        y,
        Layout.padded(target_lengths, T, causal=True),
        memory=memory,
        memory_layout=Layout.cross(source_lengths, S),
    )
    (out * weight).sum().backward()

    their_x, their_y = source.clone().requires_grad_(), target.clone().requires_grad_()
    their_out = theirs(
        their_x, their_y,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=dtype), tgt_is_causal=True,
        src_key_padding_mask=torch.zeros(B, S, dtype=dtype).masked_fill(source_padding, -torch.inf),
        memory_key_padding_mask=torch.zeros(B, S, dtype=dtype).masked_fill(source_padding, -torch.inf),
    )  # fmt: skip
    (their_out * weight).sum().backward()

    real = ~target_padding
    assert relative_difference(out[real], their_out[real]) <= tolerance
    pairs = ours_by_their_names(stacks, gradient=True)
    parameters = dict(theirs.named_parameters())
    assert pairs.keys() == parameters.keys()
    differences = {name: relative_difference(pairs[name], parameters[name].grad) for name in pairs}
    assert x.grad is not None and y.grad is not None and their_x.grad is not None and their_y.grad is not None
    differences["source"] = relative_difference(x.grad, their_x.grad)
    differences["target"] = relative_difference(y.grad, their_y.grad)
    assert max(differences.values()) <= tolerance, max(differences.items(), key=lambda item: item[1])
