"""The fast kernels equal the equation, outputs and gradients; rows that see nothing give zeros; heads are shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from regard.nn import kernels
from regard.nn.additive import AdditiveCore
from regard.nn.attention import attend, attention_weights
from regard.nn.kernels import fused, products
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, Core

B, H, Q, S, K = 3, 4, 5, 7, 8

LAYOUTS: dict[str, Callable[[int, int], Layout]] = {
    "everything": lambda q, s: Layout(),
    "padded": lambda q, s: Layout.cross(torch.tensor([s, 2, 1]), s),
    "causal": lambda q, s: Layout(causal=True),
    "cached": lambda q, s: Layout.cached(torch.rand(B, q, s) > 0.4, torch.zeros(B, q, dtype=torch.int64)),
    "nothing seen": lambda q, s: Layout.cross(torch.tensor([s, 0, 0]), s),
}


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
        who._biases.clear()
    for ours, reference in zip(*results, strict=True):
        assert not ours.isnan().any()
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp(min=1)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "nothing seen"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_plain_products_equal_the_equation(layout: str, biased: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    queries = S if layout == "causal" else Q
    who = LAYOUTS[layout](queries, S)
    bias = torch.randn(1, H, queries, S, dtype=dtype) if biased else None
    results = []
    for kernel in (products, attend):
        torch.manual_seed(1)
        shapes = [(B, H, queries, K), (B, H, S, K), (B, H, S, K + 2)]
        parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        out = kernel(*parts, who, bias=bias, scale=0.3)
        (out * torch.randn_like(out)).sum().backward()
        results.append([out, *(p.grad for p in parts)])
    for ours, reference in zip(*results, strict=True):
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp(min=1)


def test_the_kernel_is_chosen_by_size_and_by_what_it_can() -> None:
    def chosen(queries: int, keys: int, grad: bool, who: Layout, groups: int = H) -> kernels.Kernel:
        query = torch.empty(2, H, queries, K, requires_grad=grad)
        with torch.set_grad_enabled(grad):
            return kernels.choose(query, torch.empty(2, groups, keys, K), torch.empty(2, groups, keys, K), who)

    everything = Layout()
    assert chosen(3, 200, False, everything) is products, "a decoding step"
    assert chosen(40, 40, False, everything) is products, "an encoder of short sentences"
    assert chosen(300, 300, False, everything) is fused, "an encoder of long ones"
    assert chosen(40, 40, True, everything) is products, "training on short sentences"
    assert chosen(300, 300, True, everything) is fused, "the weights of long ones are not kept"
    assert chosen(3, 5, False, everything, groups=2) is fused, "grouped heads"
    assert chosen(3, 5, False, Layout.cross(torch.tensor([0, 5]), 5)) is fused, "somebody sees nothing"


@pytest.mark.parametrize("kernel", [attend, fused])
def test_rows_that_see_nothing_give_zeros(kernel: kernels.Kernel) -> None:
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
