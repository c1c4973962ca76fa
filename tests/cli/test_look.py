"""``regard look``: the translation that ``regard translate`` gives, and the attention behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import regard as package
from regard.errors import RegardError
from regard.look.attention import cross_attentions, look_at

from .conftest import Regard, refused


def test_look_draws_what_translate_says(regard: Regard, model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    done = regard("look", model, "一二三", "--png", picture, "--threads", 1)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == regard("translate", model, input="一二三\n".encode()).stdout.decode().strip()
    assert lines[1].startswith("decoder.layers.0.cross_attention, mean")
    assert len(lines) > 3 and any(shade in "".join(lines) for shade in "·░▒▓█")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in done.stderr.decode()


def test_numbers_of_a_layer_and_head(regard: Regard, model: Path) -> None:
    both = json.loads(regard("look", model, "一二三", "--layer", 0, "--json").stdout)
    heads = [json.loads(regard("look", model, "一二三", "--layer", 0, "--head", h, "--json").stdout) for h in (0, 1)]
    assert len(both["weights"]) == len(both["target"]) and len(both["weights"][0]) == len(both["source"])
    for mean, zero, one in zip(both["weights"], heads[0]["weights"], heads[1]["weights"], strict=True):
        assert sum(mean) <= 1.001
        assert mean == pytest.approx([(a + b) / 2 for a, b in zip(zero, one, strict=True)], abs=2e-4)


def test_errors(regard: Regard, model: Path, tmp_path: Path) -> None:
    assert "layer 70: the decoder has " in refused(regard("look", model, "一", "--layer", 70))
    assert "no head 9" in refused(regard("look", model, "一", "--head", 9))
    assert "the text is empty" in refused(regard("look", model, "  "))
    assert ".png, .svg, .pdf" in refused(regard("look", model, "一", "--png", tmp_path / "a.gif"))


def test_long_text_is_mapped_in_parts_but_only_whole(model: Path) -> None:
    translator = package.load(str(model))
    text = "一二三。" * 40
    found, attention = look_at(translator, text)
    assert attention.weights.shape == (len(attention.target), len(attention.source))
    assert len(found.source_tokens) > translator.settings.max_length
    with pytest.raises(RegardError, match="translated in parts"):
        look_at(translator, text, layer=0)
    assert cross_attentions(translator)[0] == "decoder.layers.0.cross_attention"
