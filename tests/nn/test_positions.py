"""Sinusoids equal the formula, rotations turn by the difference, relative buckets are T5's."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from regard.nn.layout import Layout
from regard.nn.positions import ALiBi, Learned, NoPositions, RelativeBias, Rotary, Sinusoidal, alibi_slopes, sinusoids

CPU = torch.device("cpu")


def test_sinusoids_equal_the_formula() -> None:
    table = sinusoids(300, 10)
    for place in (0, 1, 7, 299):
        for i in range(5):
            angle = place / 10_000 ** (2 * i / 10)
            assert table[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_halves_are_the_same_numbers_in_another_order() -> None:
    apart = sinusoids(50, 9, interleaved=False)
    assert torch.equal(apart[:, :5], sinusoids(50, 9)[:, 0::2]) and torch.equal(apart[:, 5:], sinusoids(50, 9)[:, 1::2])


@pytest.mark.parametrize("spec", [Sinusoidal(), Learned(300)])
def test_explicit_positions_are_the_same_positions(spec: Sinusoidal | Learned) -> None:
    module = spec.build_added(8).double()
    module.reserve(260)
    x = torch.randn(2, 260, 8, dtype=torch.float64)
    places = torch.arange(260).flip(0).expand(2, -1)
    torch.testing.assert_close(module(x, places, 3.0), module(x.flip(1), None, 3.0).flip(1))
    if isinstance(spec, Sinusoidal):
        torch.testing.assert_close(module(x, None) - x, sinusoids(260, 8).expand(2, -1, -1))
        assert not list(module.parameters()) and not module.state_dict()
        assert module.float()(x.float(), None).dtype == torch.float32
    else:
        with pytest.raises(ValueError, match="300 were learned"):
            module.reserve(301)


def test_rotary_products_depend_on_the_difference_alone() -> None:
    torch.manual_seed(0)
    rotary = Rotary().build_rotation(8)
    query, key = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)

    def product(m: int, n: int) -> float:
        turn = [rotary(1, torch.tensor([[place]]), query.device) for place in (m, n)]
        return (turn[0](query) @ turn[1](key).transpose(-2, -1)).item()

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert product(3, 3) == pytest.approx((query @ key.transpose(-2, -1)).item(), abs=1e-6)
    assert product(9, 4) != pytest.approx(product(4, 9), abs=1e-2)


def test_rotary_turns_by_the_formula() -> None:
    x = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    turned = Rotary(theta=100.0).build_rotation(4)(6, None, x.device)(x)
    for place in range(6):
        for i in range(2):
            pair = torch.complex(x[0, 0, place, i], x[0, 0, place, i + 2])
            pair = pair * torch.exp(torch.tensor(1j * place * 100.0 ** (-2 * i / 4)))
            assert turned[0, 0, place, i].item() == pytest.approx(pair.real.item(), abs=1e-6)
            assert turned[0, 0, place, i + 2].item() == pytest.approx(pair.imag.item(), abs=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_relative_buckets_are_t5s(causal: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    bias = RelativeBias(32, 128).build_bias(2, causal)
    distance = torch.arange(-300, 301)
    theirs = t5.T5Attention._relative_position_bucket(distance, bidirectional=not causal)
    assert torch.equal(bias.bucket(distance), theirs)


def test_relative_bias_by_explicit_positions() -> None:
    module = RelativeBias(8, 16).build_bias(3, causal=True)
    torch.nn.init.normal_(module.weight)
    whole = module(6, 6, Layout(), CPU)
    assert whole.shape == (1, 3, 6, 6)
    places, slots = torch.tensor([[4], [2]]), torch.tensor([[0, 1, 2, 3, 4], [2, 0, 1, 5, 5]])
    one = module(1, 5, Layout.cached(torch.ones(2, 1, 5, dtype=torch.bool), places, slots), CPU)
    torch.testing.assert_close(one[0, :, 0], whole[0, :, 4, :5])
    torch.testing.assert_close(one[1, :, 0, :3], whole[0, :, 2][:, [2, 0, 1]])


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 16, 20, 71])
def test_slopes_are_those_of_bloom_and_mpt(heads: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    slopes = alibi_slopes(heads, CPU)
    # Both add slope · key position, up to a number a row, which the softmax does not see.
    of_bloom = bloom.build_alibi_tensor(torch.ones(1, 6), heads, torch.float32)[:, 0]
    of_mpt = mpt.build_mpt_alibi_tensor(heads, 6)[:, 0]
    for theirs in (of_bloom, of_mpt):
        torch.testing.assert_close(theirs.diff(), slopes[:, None].expand(-1, 5), rtol=0, atol=1e-6)
    last = ALiBi().build_bias(heads, causal=True)(6, 6, Layout(causal=True), CPU)[0, :, -1]
    torch.testing.assert_close(last, of_mpt, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_alibi_is_a_slope_times_the_distance(causal: bool) -> None:
    module = ALiBi().build_bias(8, causal)
    assert not list(module.parameters()) and not module.state_dict()
    whole = module(5, 5, Layout(), CPU)
    assert whole.shape == (1, 8, 5, 5) and not whole.requires_grad
    for head in range(8):
        for i in range(5):
            assert whole[0, head, i].tolist() == [-(2.0 ** -(head + 1)) * abs(i - j) for j in range(5)]
    places, slots = torch.tensor([[4], [2]]), torch.tensor([[0, 1, 2, 3, 4], [2, 0, 1, 4, 4]])
    one = module(1, 5, Layout.cached(torch.ones(2, 1, 5, dtype=torch.bool), places, slots), CPU)
    torch.testing.assert_close(one[0, :, 0], whole[0, :, 4])
    torch.testing.assert_close(one[1, :, 0], whole[0, :, 2][:, [2, 0, 1, 4, 4]])


def test_parts_stand_in_one_place_each() -> None:
    kinds = Sinusoidal(), Learned(4), Rotary(), RelativeBias(), ALiBi()
    for spec, places in ((NoPositions(), 0), *((kind, 1) for kind in kinds)):
        built = [spec.build_added(8), spec.build_rotation(8), spec.build_bias(2, True)]
        assert sum(module is not None for module in built) == places
    assert Learned(4).build_added(8).limit == 4 and Sinusoidal().build_added(8).limit is None
    with pytest.raises(ValueError, match="even head width"):
        Rotary().build_rotation(3)
    with pytest.raises(ValueError, match="multiple of 4"):
        RelativeBias(6, 16)


def test_building_without_memory_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from regard.model_folder import build_without_memory\n"
        "from regard.models.encoder import Encoder\n"
        "build_without_memory(Encoder(width=16, heads=2, layers=1, feedforward=32), (9, None))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
