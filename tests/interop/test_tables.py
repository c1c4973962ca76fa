"""Tables of entries and steps: each is the other's inverse to the bit, and sizes that do not fit are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regard.errors import RegardError
from regard.interop.tables import (
    absent,
    check_shapes,
    constant,
    export_weights,
    import_weights,
    repeat,
    same,
    unused,
    zero,
)
from regard.interop.transforms import join, pad, reshape, rows, scaled, split, stack, transpose, unstack

Weights = dict[str, Tensor]


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


TABLE = [
    same("a", "A"),
    same("b", "B", transpose()),
    same("c", ("C0", "C1"), join(2, 1)),
    same(("d0", "d1"), "D", split(2, 2)),
    same("e", ("E0", "E1"), stack()),
    same(("f",), "F", unstack()),
    same("g", "G", pad(1, 4, value=-1.0)),
    same("h", "H", rows([2, 0, 1])),
    same("i", "I", reshape((2, 6), (3, 4))),
    same("j", "J", scaled(0.25)),
    absent("A2", "A"),
    constant("K", (3,), lambda: torch.arange(3.0)),
    unused("L"),
    zero("m"),
]
OURS: Weights = {
    "a": torch.randn(2), "b": torch.randn(2, 3), "c": torch.randn(3, 2), "d0": torch.randn(2, 2),
    "d1": torch.randn(2, 2), "e": torch.randn(2, 3), "f": torch.randn(4), "g": torch.randn(3, 2),
    "h": torch.randn(3, 2), "i": torch.randn(2, 6), "j": torch.randn(5), "m": torch.zeros(3),
}  # fmt: skip


def test_there_and_back() -> None:
    theirs = export_weights(TABLE, OURS)
    assert shapes(theirs) == {
        "A": (2,), "B": (3, 2), "C0": (2, 2), "C1": (1, 2), "D": (4, 2), "E0": (3,), "E1": (3,), "F": (1, 4),
        "G": (8, 2), "H": (3, 2), "I": (3, 4), "J": (5,),
    }  # fmt: skip
    check_shapes(TABLE, shapes(theirs), shapes(OURS))
    assert equal(import_weights(TABLE, theirs, shapes(OURS)), OURS)
    more = theirs | {"A2": theirs["A"].clone(), "K": torch.arange(3.0).half(), "L": torch.ones(1)}
    assert equal(import_weights(TABLE, more, shapes(OURS)), OURS)
    assert equal(export_weights(TABLE, import_weights(TABLE, theirs, shapes(OURS))), theirs)


def gpt2(width: int) -> list[Any]:
    """The attention of GPT-2: queries, keys and values are one matrix [in, 3 · out]."""
    names = ("query", "key", "value")
    return [
        same([f"{name}.weight" for name in names], "c_attn.weight", transpose(), split(width, width, width)),
        same([f"{name}.bias" for name in names], "c_attn.bias", split(width, width, width)),
        same("output.weight", "c_proj.weight", transpose()),
    ]


def test_steps_compose() -> None:
    width = 4
    theirs = {
        "c_attn.weight": torch.randn(width, 3 * width), "c_attn.bias": torch.randn(3 * width),
        "c_proj.weight": torch.randn(width, width),
    }  # fmt: skip
    ours = import_weights(gpt2(width), theirs)
    x = torch.randn(5, width)
    fused = x @ theirs["c_attn.weight"] + theirs["c_attn.bias"]
    for name, part in zip(("query", "key", "value"), fused.split(width, -1), strict=True):
        torch.testing.assert_close(x @ ours[f"{name}.weight"].T + ours[f"{name}.bias"], part)
    assert equal(export_weights(gpt2(width), ours), theirs)


def test_a_wrong_axis_is_refused() -> None:
    """Without the transpose, the fused matrix [in, 3 · out] would be cut along the wrong axis."""
    wrong = [same(("query", "key", "value"), "c_attn.weight", split(4, 4, 4))]
    with pytest.raises(RegardError, match=r"'c_attn.weight' \[4, 12\]: expected 4 \+ 4 \+ 4 rows"):
        import_weights(wrong, {"c_attn.weight": torch.randn(4, 12)})
    whole = gpt2(4)[:1]
    with pytest.raises(
        RegardError, match=r"'c_attn.weight' \[12, 4\], changed to \[4, 12\]: expected 4 \+ 4 \+ 4 rows"
    ):
        import_weights(whole, {"c_attn.weight": torch.randn(12, 4)})
    parts = {f"{name}.weight": torch.randn(4, 4) for name in ("query", "key")} | {"value.weight": torch.randn(5, 4)}
    with pytest.raises(RegardError, match=r"'value.weight' \[5, 4\]: expected 3 tensors of 4, 4, 4 rows"):
        export_weights(whole, parts)


@pytest.mark.parametrize(
    ("entry", "theirs", "message"),
    [
        (same("x", "X", transpose()), {"X": torch.zeros(3)}, r"'X' \[3\]: expected a matrix"),
        (same("x", ("X", "Y"), join(2, 2)), {"X": torch.zeros(2, 3), "Y": torch.zeros(2, 4)}, "along every other axis"),
        (same("x", ("X", "Y"), stack()), {"X": torch.zeros(2), "Y": torch.zeros(3)}, "tensors of one shape"),
        (same(("x", "y"), "X", unstack()), {"X": torch.zeros(3, 2)}, "expected 2 tensors of it"),
        (same("x", "X", reshape((6,), (2, 3))), {"X": torch.zeros(3, 2)}, r"expected \[2, 3\]"),
        (same("x", "X", rows([1, 0])), {"X": torch.zeros(3)}, "expected 2 rows"),
        (same("x", "X", pad(0, 2)), {"X": torch.ones(5)}, "0 rows before and 2 after that are all 0"),
        (same("x", "X", pad(0, 2)), {"X": torch.ones(2)}, "more than 2 rows"),
        (same("x", "X"), {}, "'X' is missing"),
        (same("norm.weight", "norm.weight"), {"norm.weigth": torch.zeros(1)}, "'norm.weight' is missing"),
        (same("x", "norm.weight"), {"norm.weight": torch.zeros(1), "norm.weigth": torch.zeros(1)}, "did you mean"),
        (constant("X", (2,), lambda: torch.ones(2)), {"X": torch.zeros(2)}, "not what it is in every model"),
    ],
)  # fmt: skip
def test_what_does_not_fit(entry: Any, theirs: Weights, message: str) -> None:
    with pytest.raises(RegardError, match=message):
        import_weights([entry], theirs)


def test_copies_must_agree_whichever_are_there() -> None:
    table = [same("x", "X"), absent("Y", "X"), absent("Z", "X")]
    x = torch.randn(2)
    for names in ("X", "Y", "Z", "XY", "YZ", "XYZ"):
        assert equal(import_weights(table, {name: x.clone() for name in names}), {"x": x})
    for names in ("XY", "XZ", "YZ"):
        with pytest.raises(RegardError, match=f"'{names[1]}' differs from '{names[0]}', to which it should be tied"):
            import_weights(table, {names[0]: x, names[1]: x + 1})


def test_what_has_no_place() -> None:
    with pytest.raises(RegardError, match="'y' of this model has no place"):
        export_weights([same("x", "X")], {"x": torch.zeros(1), "y": torch.zeros(1)})
    with pytest.raises(RegardError, match="'m' has no place in the other format, where it is 0"):
        export_weights([zero("m")], {"m": torch.ones(1)})
    with pytest.raises(RegardError, match=r"'X' is \[2, 4\], expected \[3, 4\]"):
        check_shapes([same("x", "X")], {"X": (2, 4)}, {"x": (3, 4)})
    with pytest.raises(ValueError, match="power of two"):
        scaled(3.0)
    with pytest.raises(ValueError, match="each row once"):
        rows([0, 0])


def test_layers_are_repeated() -> None:
    table = repeat(2, [same("layers.#.a", "h.#.A")])
    theirs = {"h.0.A": torch.randn(2), "h.1.A": torch.randn(2)}
    assert list(import_weights(table, theirs)) == ["layers.0.a", "layers.1.a"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 3), st.data())
def test_any_steps_are_undone(sizes: list[int], width: int, more: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(sum(sizes) + more)))
    names = tuple(f"x{number}" for number in range(len(sizes)))
    table = [same(names, "X", transpose(), rows(order), pad(0, more), scaled(2.0), split(*sizes))]
    ours = {name: torch.randn(size, width) for name, size in zip(names, sizes, strict=True)}
    theirs = export_weights(table, ours)
    assert theirs["X"].shape == (width, sum(sizes) + more)
    assert equal(import_weights(table, theirs), ours)
    assert equal(export_weights(table, import_weights(table, theirs)), theirs)
