"""Options from dictionaries and back: every wrong key or value is named; parts are written short or in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from torch import nn

from regard.errors import RegardError
from regard.models import registry


@dataclass(frozen=True, kw_only=True)
class Plain:
    pass


@dataclass(frozen=True, kw_only=True)
class Turned:
    theta: float = 10000.0
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.theta <= 0:
            raise ValueError("theta must be positive")


@dataclass(frozen=True, kw_only=True)
class Toy:
    """An architecture of two tables, the second tied to the first."""

    width: int = field(default=8, metadata={"help": "model width D"})
    dropout: float = 0.1
    order: Literal["pre", "post"] = "post"
    final: bool | None = None
    positions: Plain | Turned = Plain()

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> nn.Module:
        model = nn.Module()
        model.first = nn.Embedding(vocabulary, self.width)
        model.second = nn.Linear(self.width, vocabulary)
        model.second.weight = model.first.weight
        return model


PRESETS = {"wide": Toy(width=1024, dropout=0.3)}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ARCHITECTURES", {"toy": registry.Architecture(f"{__name__}:Toy", source=False)})
    monkeypatch.setattr(
        registry, "PARTS", {"positions": {"plain_part": f"{__name__}:Plain", "turned": f"{__name__}:Turned"}}
    )


def read(**values: Any) -> Any:
    return registry.options_from({"architecture": "toy", **values})


def test_defaults_presets_and_replacements() -> None:
    assert read() == Toy()
    assert read(preset="wide") == Toy(width=1024, dropout=0.3)
    assert read(preset="wide", dropout=0, final=True) == Toy(width=1024, dropout=0.0, final=True)


def test_parts_short_in_full_and_as_objects() -> None:
    assert read(positions="turned").positions == Turned()
    assert read(positions="PlainPart").positions == Plain()
    part = Turned(theta=5.0, sizes=(3,))
    assert read(positions={"kind": "turned", "theta": 5, "sizes": [3]}).positions == part
    assert read(positions=part).positions == part


def test_round_trip() -> None:
    options = Toy(order="pre", positions=Turned(theta=2.0))
    written = registry.to_dict(options)
    assert written == {
        "architecture": "toy", "width": 8, "dropout": 0.1, "order": "pre", "final": None,
        "positions": {"kind": "turned", "theta": 2.0, "sizes": [1, 2]},
    }  # fmt: skip
    assert registry.options_from(written) == options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 8}, "unknown key 'model.widht' — did you mean 'width'?"),
        ({"zzz": 8}, "unknown key 'model.zzz'; known: width, dropout, order, final, positions"),
        ({"width": "8"}, "'model.width' is '8': input should be a valid integer"),
        ({"width": 8.5}, "'model.width' is 8.5: input should be a valid integer"),
        ({"dropout": True}, "'model.dropout' is True: input should be a valid number"),
        ({"order": "past"}, "'model.order' is 'past': input should be 'pre' or 'post'"),
        ({"architecture": "toi"}, "'model.architecture' is 'toi': no such architecture — did you mean 'toy'?"),
        ({"architecture": ["toy"]}, "'model.architecture' is ['toy']: no such architecture; known: toy"),
        ({"preset": "wid"}, "'model.preset' is 'wid': no such preset of 'toy' — did you mean 'wide'?"),
        ({"positions": "turnd"}, "'model.positions' is 'turnd': no such kind — did you mean 'turned'?"),
        ({"positions": 3}, "'model.positions' is 3: expected one of plain_part, turned, or a table with 'kind'"),
        ({"positions": {"kind": "turned", "teta": 1.0}}, "unknown key 'model.positions.teta' — did you mean 'theta'?"),
        ({"positions": {"kind": "turned", "theta": -1.0}}, "model.positions: theta must be positive"),
    ],
)
def test_mistakes_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegardError) as caught:
        read(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_tied_table_counts_once() -> None:
    assert registry.describe(Toy(), 10) == [("first.weight", (10, 8), 80), ("second.bias", (10,), 10)]
    assert registry.parameter_count(Toy(), 10) == 90


def test_table_of_options() -> None:
    rows = {row[0]: row for row in registry.options_table("toy")}
    assert rows["width"] == ("width", "int", 8, "model width D")
    assert rows["positions"][1:3] == ("plain_part | turned", {"kind": "plain_part"})
