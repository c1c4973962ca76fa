"""The options that Transformer and DecoderOnly share: read, refused, and put where they belong."""

from __future__ import annotations

from typing import Any

import pytest

from regard.errors import RegardError
from regard.models import registry
from regard.nn.norm import LayerNorm, RMSNorm

SMALL: dict[str, Any] = {"width": 16, "heads": 4, "feedforward": 32}


def read(architecture: str, **values: Any) -> Any:
    return registry.options_from({"architecture": architecture, **SMALL, **values})


@pytest.mark.parametrize("architecture", ["transformer", "decoder"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 3}, "model: width=16 must be a multiple of heads=3"),
        ({"heads": 0}, "model: width=16 must be a multiple of heads=0"),
        ({"head_width": -1}, "model: head_width=-1 must be at least 0"),
        ({"head_width": 10**6}, "'model.head_width' is 1000000: expected at most 131072"),
        ({"key_value_heads": 3}, "model: heads=4 must be a multiple of key_value_heads=3"),
        ({"key_value_heads": -4}, "model: heads=4 must be a multiple of key_value_heads=-4"),
        ({"window": -1}, "model: window=-1 must be at least 0"),
        ({"scale": 0.0}, "model: scale=0.0 must be more than 0, and at most 1e+06"),
        ({"scale": -1.0}, "model: scale=-1.0 must be more than 0, and at most 1e+06"),
        ({"scale": float("inf")}, "model: scale=inf must be more than 0, and at most 1e+06"),
        ({"scale": float("nan")}, "model: scale=nan must be more than 0, and at most 1e+06"),
        ({"scale": 1e300}, "model: scale=1e+300 must be more than 0, and at most 1e+06"),
        ({"bias": "kv"}, "'model.bias' is 'kv': input should be a valid boolean or input should be 'qkv'"),
        ({"query_key_norm": "batch_norm"}, "'model.query_key_norm' is 'batch_norm': no such kind"),
        ({"feedforward": 0}, "model: feedforward=0 must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(architecture: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegardError) as caught:
        read(architecture, **values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["transformer", "decoder"])
def test_options_are_put_in_every_attention(architecture: str) -> None:
    options = read(
        architecture, head_width=6, bias="qkv", scale=0.5, query_key_norm="rms_norm", window=7, key_value_heads=2
    )
    assert registry.options_from(registry.to_dict(options)) == options
    stacks = [stack for stack in (options.tree().encoder, options.tree().decoder) if stack is not None]
    for layer in [layer for stack in stacks for layer in stack.layers]:
        for attention, window in ((layer.attention, 7), (layer.cross, 0)):
            if attention is not None:
                assert (attention.head_width, attention.key_value_heads, attention.scale) == (6, 2, 0.5)
                assert (attention.bias, attention.query_key_norm, attention.window) == ("qkv", RMSNorm(), window)
        assert layer.feedforward.bias is False
    model = options.build(11)
    attention = model.decoder.layers[0].self_attention
    assert attention.query_key_value.weight.shape == (6 * (4 + 2 + 2), 16)
    assert attention.query_key_value.bias is not None and attention.output.bias is None


def test_a_norm_of_queries_and_keys_may_be_left_out() -> None:
    assert read("decoder").query_key_norm is None
    assert read("decoder", query_key_norm=None).query_key_norm is None
    assert read("decoder", query_key_norm={"kind": "layer_norm", "bias": False}).query_key_norm == LayerNorm(bias=False)
    assert registry.to_dict(read("decoder"))["query_key_norm"] is None
    with pytest.raises(RegardError, match=r"'model\.norm' is None"):
        read("decoder", norm=None)


def test_width_need_not_be_a_multiple_of_heads_that_say_theirs() -> None:
    assert read("decoder", heads=3, head_width=8).build(11).decoder.layers[0].self_attention.head_width == 8


def test_every_shared_option_is_one_declaration() -> None:
    tables = [{row[0]: row for row in registry.options_table(name)} for name in ("transformer", "decoder")]
    both = tables[0].keys() & tables[1].keys()
    assert {"width", "heads", "key_value_heads", "head_width", "positions", "norm", "order", "bias", "window"} <= both
    assert all(tables[0][name][1] == tables[1][name][1] for name in both)
