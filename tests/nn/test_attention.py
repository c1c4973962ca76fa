"""The fast kernels equal the equation, outputs and gradients; rows that see nothing give zeros; heads are shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layouts import LAYOUTS, B, H, K, Q, S
from torch import Tensor, nn

from regard.nn import kernels
from regard.nn.additive import AdditiveCore
from regard.nn.attention import attend, attention_weights
from regard.nn.kernels import fused
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, Core


def by_loops(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Equation (1) once more, a number at a time: what the reference itself is compared with."""
    out = torch.zeros(*query.shape[:3], value.shape[3], dtype=query.dtype)
    shared = query.shape[1] // key.shape[1]
    for b, h, q in torch.cartesian_prod(*(torch.arange(n) for n in query.shape[:3])).tolist():
        seen = [s for s in range(key.shape[2]) if allowed[b, 0, q, s]]
        if seen:
            g = h // shared
            scores = torch.stack([query[b, h, q] @ key[b, g, s] * scale + bias[h, q, s] for s in seen])
            powers = torch.exp(scores - scores.max())
            out[b, h, q] = (powers / powers.sum()) @ value[b, g, seen]
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_equation_is_the_papers(layout: str, groups: int) -> None:
    torch.manual_seed(0)
    queries = S if layout == "causal" else Q
    query = torch.randn(B, H, queries, K, dtype=torch.float64)
    key, value = (torch.randn(B, groups, S, width, dtype=torch.float64) for width in (K, K + 2))
    bias, who = torch.randn(H, queries, S, dtype=torch.float64), LAYOUTS[layout](queries, S)
    seen = who.allowed(queries, S, query.device)
    allowed = torch.ones(B, 1, queries, S, dtype=torch.bool) & (seen if seen is not None else torch.tensor(True))
    expected = by_loops(query, key, value, allowed, bias, 0.3)
    torch.testing.assert_close(attend(query, key, value, who, bias=bias, scale=0.3), expected)
    default = by_loops(query, key, value, allowed, torch.zeros_like(bias), K**-0.5)
    torch.testing.assert_close(attend(query, key, value, who), default)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fused_equals_the_equation(
    layout: str, groups: int, biased: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    queries = S if layout == "causal" else Q
    who = LAYOUTS[layout](queries, S)
    shapes = [(B, H, queries, K), (B, groups, S, K), (B, groups, S, K)]
    results = []
    for kernel in (fused, attend):
        torch.manual_seed(1)
        parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        bias = torch.randn(1, H, queries, S, dtype=dtype, requires_grad=True) if biased else None
        out = kernel(*parts, who, bias=bias)
        (out * torch.randn_like(out)).sum().backward()
        results.append([out, *(p.grad for p in parts), *([] if bias is None else [bias.grad])])
        who._shared.clear()
    for ours, reference in zip(*results, strict=True):
        assert not ours.isnan().any()
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp(min=1)


@pytest.mark.parametrize("kernel", [attend, fused])
def test_rows_that_see_nothing_give_zeros(kernel: Callable[..., Tensor]) -> None:
    query, key = torch.randn(2, H, Q, K), torch.randn(2, H, S, K)
    out = kernel(query, key, key, Layout.cross(torch.tensor([0, S]), S))
    assert (out[0] == 0).all() and (out[1] != 0).all()
    assert (attention_weights(query, key, Layout.cross(torch.tensor([0, S]), S))[0] == 0).all()
    nothing = key[:, :, :0]
    core = Core()(query, nothing, nothing, Layout())
    assert core.shape == query.shape and (core == 0).all()


def test_slow_calls_are_counted() -> None:
    query = torch.randn(1, H, Q, K)
    kernels.slow_calls.clear()
    core = Core(dropout=0.5)
    core.eval()(query, query, query, Layout())
    assert not kernels.slow_calls
    core.train()(query, query, query, Layout())
    assert kernels.slow_calls["attention dropout on CPU"] == 1


def test_dropout_on_weights_keeps_their_mean() -> None:
    torch.manual_seed(0)
    query, value = torch.zeros(64, H, S, K), torch.ones(64, H, S, K)
    out = attend(query, query, value, Layout(), dropout=0.25)
    assert abs(out.mean().item() - 1) < 0.02 and out.std() > 0.1


def test_additive_scores() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(B, 1, Q, K), torch.randn(B, 1, S, K), torch.randn(B, 1, S, 3)
    vector, layout = torch.randn(K), Layout.cross(torch.tensor([S, 2, 0]), S)
    core = AdditiveCore()
    weights = core.weights(query, key, layout, vector=vector)
    scores = torch.tanh(query[1, 0, 0] + key[1, 0, :2]) @ vector
    torch.testing.assert_close(weights[1, 0, 0], torch.cat([scores.softmax(0), torch.zeros(S - 2)]))
    assert (core(query, key, value, layout, vector=vector)[2] == 0).all()


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("groups", [0, 2])
def test_one_matrix_in_memory_three_on_disk(cross: bool, groups: int) -> None:
    torch.manual_seed(0)
    spec = Attention(heads=4, key_value_heads=groups)
    one, other = (spec.build(16, memory_width=16 if cross else None) for _ in range(2))
    state = one.state_dict()
    kinds = {f"{name}.{kind}" for name in ("query", "key", "value", "output") for kind in ("weight", "bias")}
    assert state.keys() == kinds
    assert state["key.weight"].shape == (16 if not groups else 8, 16)
    other.load_state_dict(state)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 5, 16)

    def apart(name: str, inputs: Tensor) -> Tensor:
        product = nn.functional.linear(inputs, state[f"{name}.weight"], state[f"{name}.bias"])
        return product.view(2, inputs.shape[1], -1, 4).transpose(1, 2)

    seen = memory if cross else x
    expected = attend(apart("query", x), apart("key", seen), apart("value", seen), Layout())
    expected = nn.functional.linear(expected.transpose(1, 2).flatten(2), state["output.weight"], state["output.bias"])
    torch.testing.assert_close(one(x, Layout(), memory=memory if cross else None), expected)


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of key_value_heads"):
        Attention(heads=4, key_value_heads=3)
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(heads=3).build(16)
