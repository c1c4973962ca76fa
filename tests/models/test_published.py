"""T5, LLaMA and BERT of Hugging Face at random weights, in fp64: our options give their outputs.

The tables of interop/ are tested elsewhere; the names here are written by hand, so that only the models are compared.
The two differ by rounding alone: both compute rotary angles in fp32, and LLaMA's norm there is in fp32 too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard.models.decoder import DecoderOnly
from regard.models.encoder import Encoder
from regard.models.heads import Head, MaskedWords, Spans, TextLabels, TokenLabels
from regard.models.transformer import Transformer
from regard.nn.norm import RMSNorm
from regard.nn.positions import Learned, RelativeBias, Rotary
from regard.nn.rotary import LinearScaling, Llama3Scaling, Scaling
from regard.nn.sequences import Tokens

transformers: Any = pytest.importorskip("transformers")
V, WIDTH, INNER, LAYERS = 53, 24, 40, 2
LENGTHS = torch.tensor([9, 4, 7])
TOLERANCE = 1e-6  # max|a - b| / max|b|


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def random(model: Any) -> Any:
    """Their model in fp64 and evaluation mode, its weights drawn wide and its gains near 1."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3)
    return model.double().eval()


def texts(seed: int = 0) -> tuple[Tokens, Tensor]:
    """Padded texts, and their mask of real tokens."""
    ids = torch.randint(4, V, (3, 9), generator=torch.Generator().manual_seed(seed))
    return Tokens(ids, LENGTHS), (torch.arange(9) < LENGTHS[:, None]).long()


def filled(model: Any, weights: dict[str, Tensor]) -> Any:
    model = model.double().eval()
    model.load_state_dict(weights)
    return model


def close(got: Tensor, expected: Tensor, mask: Tensor | None = None) -> None:
    assert got.shape == expected.shape
    if mask is not None:
        got, expected = got[mask.bool()], expected[mask.bool()]
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def named(theirs: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Tensors of theirs by our names; ``names``: ours → theirs, weights and biases alike."""
    found = {}
    for ours, other in names.items():
        for kind in ("weight", "bias"):
            if f"{other}.{kind}" in theirs:
                found[f"{ours}.{kind}"] = theirs[f"{other}.{kind}"]
    assert len(found) >= len(names)
    return found


# -- T5 ----------------------------------------------------------------------------------------------------------------


def t5(original: bool) -> tuple[Any, Any]:
    """Their T5 and ours: the original, or version 1.1."""
    config = transformers.T5Config(
        vocab_size=V, d_model=WIDTH, d_kv=10, d_ff=INNER, num_layers=LAYERS, num_heads=4, pad_token_id=0,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0,
        feed_forward_proj="relu" if original else "gated-gelu", tie_word_embeddings=original,
    )  # fmt: skip
    theirs = random(transformers.T5ForConditionalGeneration(config))
    options = Transformer(
        width=WIDTH, heads=4, head_width=10, feedforward=INNER, encoder_layers=LAYERS, decoder_layers=LAYERS,
        positions=RelativeBias(8, 12), norm=RMSNorm(eps=1e-6), order="pre", bias=False, scale=1.0,
        activation="relu" if original else "gelu_tanh", gated=not original, scale_embedding=False,
        share="all" if original else "inputs", output_scale=WIDTH**-0.5 if original else 1.0, final_dropout=0.1,
    )  # fmt: skip
    names = {"source_embedding.table": "shared"}
    if not original:
        names["output"] = "lm_head"
    for stack in ("encoder", "decoder"):
        blocks = ["self_attention", "cross_attention"] if stack == "decoder" else ["self_attention"]
        names[f"{stack}.norm"] = f"{stack}.final_layer_norm"
        for i in range(LAYERS):
            ours, block = f"{stack}.layers.{i}", f"{stack}.block.{i}.layer"
            for number, attention in enumerate(blocks):
                kind = "SelfAttention" if number == 0 else "EncDecAttention"
                names |= {
                    f"{ours}.{attention}.{a}": f"{block}.{number}.{kind}.{b}"
                    for a, b in {"query": "q", "key": "k", "value": "v", "output": "o"}.items()
                }
                names[f"{ours}.{attention}_residual.norm"] = f"{block}.{number}.layer_norm"
            last = f"{block}.{len(blocks)}"
            inner = {"input": "wi"} if original else {"input": "wi_1", "gate": "wi_0"}
            names |= {
                f"{ours}.feedforward.{a}": f"{last}.DenseReluDense.{b}" for a, b in {**inner, "output": "wo"}.items()
            }
            names[f"{ours}.feedforward_residual.norm"] = f"{last}.layer_norm"
    weights = theirs.state_dict()
    ours = named(weights, names)
    for stack in ("encoder", "decoder"):
        ours[f"{stack}.bias.weight"] = weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    return theirs, filled(options.build(V), ours)


def norm_in_fp64(self: Any, x: Tensor) -> Tensor:
    """Their norm of fp64 numbers takes its mean in fp32, and is the one difference between the two models."""
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


@pytest.mark.parametrize("original", [True, False], ids=["original", "1.1"])
def test_t5(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.models.t5.modeling_t5.T5LayerNorm, "forward", norm_in_fp64)
    theirs, ours = t5(original)
    (source, mask), (target, target_mask) = texts(1), texts(2)
    expected = theirs(input_ids=source.ids, attention_mask=mask, decoder_input_ids=target.ids)
    memory = ours.encode(source)
    close(memory.hidden, expected.encoder_last_hidden_state, mask)
    close(ours.logits(ours(target, memory).hidden), expected.logits, target_mask)
    state = ours.start(memory, 1, 9)
    for at in range(9):
        hidden = ours.step(target.ids[:, at : at + 1], state, torch.ones(3, dtype=torch.int64) if at == 0 else None)
        close(ours.logits(hidden), expected.logits[:, at : at + 1])


# -- LLaMA -------------------------------------------------------------------------------------------------------------

SCALINGS: dict[str, tuple[Scaling | None, dict[str, Any]]] = {
    "plain": (None, {"rope_type": "default"}),
    "llama3": (
        Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=64),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
    ),
    "linear": (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
}  # fmt: skip


def llama(scaling: str, tied: bool) -> tuple[Any, Any]:
    part, parameters = SCALINGS[scaling]
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=512, tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 500.0, **parameters},
    )  # fmt: skip
    theirs = random(transformers.LlamaForCausalLM(config))
    options = DecoderOnly(
        width=WIDTH, layers=LAYERS, heads=4, key_value_heads=2, head_width=16, feedforward=INNER,
        norm=RMSNorm(eps=1e-5), gated=True, activation="silu", bias=False, positions=Rotary(500.0, part), tied=tied,
    )  # fmt: skip
    names = {"target_embedding.table": "model.embed_tokens", "decoder.norm": "model.norm"}
    if not tied:
        names["output"] = "lm_head"
    for i in range(LAYERS):
        ours, other = f"decoder.layers.{i}", f"model.layers.{i}"
        names |= {
            f"{ours}.self_attention.{a}": f"{other}.self_attn.{b}"
            for a, b in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}.items()
        }
        names |= {
            f"{ours}.feedforward.{a}": f"{other}.mlp.{b}"
            for a, b in {"input": "up_proj", "gate": "gate_proj", "output": "down_proj"}.items()
        }
        names[f"{ours}.self_attention_residual.norm"] = f"{other}.input_layernorm"
        names[f"{ours}.feedforward_residual.norm"] = f"{other}.post_attention_layernorm"
    return theirs, filled(options.build(V), named(theirs.state_dict(), names))


@pytest.mark.parametrize(("scaling", "tied"), [("plain", True), ("llama3", False), ("linear", True)])
def test_llama(scaling: str, tied: bool) -> None:
    theirs, ours = llama(scaling, tied)
    target, mask = texts()
    expected = theirs(input_ids=target.ids, attention_mask=mask).logits
    close(ours.logits(ours(target, None).hidden), expected, mask)


@pytest.mark.parametrize("scaling", list(SCALINGS))
@pytest.mark.parametrize("theta", [500.0, 500_000.0])
def test_angles_are_llamas(scaling: str, theta: float) -> None:
    """Far positions too, where the rounding of a frequency in fp32 counts."""
    part, parameters = SCALINGS[scaling]
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters={"rope_theta": theta, **parameters}
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    positions = torch.tensor([[0, 1, 63, 64, 500, 8191]])
    cosine, sine = embedding(torch.zeros(1), positions)
    ours = Rotary(theta, part).build_rotation(64)(6, positions, torch.device("cpu"))
    tolerance = 8191 * 2**-23 if part is None else 1e-6  # theta**-e and 1 / theta**e round apart
    assert (ours.cosine[0, 0] - cosine[0, :, :32]).abs().max() <= tolerance
    assert (ours.sine[0, 0] - sine[0, :, :32]).abs().max() <= tolerance


# -- BERT --------------------------------------------------------------------------------------------------------------

BERTS: dict[str, tuple[str, Head | None, tuple[str, ...]]] = {
    "states": ("BertModel", None, ()),
    "masked words": ("BertForMaskedLM", MaskedWords(), ()),
    "labels of texts": ("BertForSequenceClassification", TextLabels(), ("a", "b", "c")),
    "labels of tokens": ("BertForTokenClassification", TokenLabels(), ("a", "b", "c")),
    "spans": ("BertForQuestionAnswering", Spans(), ()),
}


def bert(name: str) -> tuple[Any, Any]:
    kind, head, labels = BERTS[name]
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=INNER,
        max_position_embeddings=12, num_labels=len(labels) or 2,
    )  # fmt: skip
    theirs = random(getattr(transformers, kind)(config))
    options = Encoder(
        width=WIDTH, heads=4, feedforward=INNER, layers=LAYERS, positions=Learned(12), head=head, labels=labels
    )
    prefix = "" if name == "states" else "bert."
    names = {
        "target_embedding.table": "embeddings.word_embeddings",
        "target_embedding.segments": "embeddings.token_type_embeddings",
        "target_embedding.norm": "embeddings.LayerNorm",
    }
    for i in range(LAYERS):
        ours, other = f"decoder.layers.{i}", f"encoder.layer.{i}"
        names |= {
            f"{ours}.self_attention.{part}": f"{other}.attention.self.{part}" for part in ("query", "key", "value")
        }
        names |= {
            f"{ours}.self_attention.output": f"{other}.attention.output.dense",
            f"{ours}.self_attention_residual.norm": f"{other}.attention.output.LayerNorm",
            f"{ours}.feedforward.input": f"{other}.intermediate.dense",
            f"{ours}.feedforward.output": f"{other}.output.dense",
            f"{ours}.feedforward_residual.norm": f"{other}.output.LayerNorm",
        }
    names = {ours: prefix + other for ours, other in names.items()}
    names |= {
        "labels of texts": {"head.pooler": "bert.pooler.dense", "head.output": "classifier"},
        "labels of tokens": {"head.output": "classifier"},
        "spans": {"head.output": "qa_outputs"},
        "masked words": {
            "before_scores.linear": "cls.predictions.transform.dense",
            "before_scores.norm": "cls.predictions.transform.LayerNorm",
        },
        "states": {},
    }[name]
    weights = theirs.state_dict()
    ours = named(weights, names)
    ours["target_embedding.positions.weight"] = weights[f"{prefix}embeddings.position_embeddings.weight"]
    if name == "masked words":
        ours["output_bias"] = weights["cls.predictions.bias"]
    return theirs, filled(options.build(V), ours)


@pytest.mark.parametrize("name", list(BERTS))
def test_bert(name: str) -> None:
    theirs, ours = bert(name)
    target, mask = texts()
    segments = (torch.arange(9) >= torch.tensor([5, 2, 3])[:, None]).long()
    target = Tokens(target.ids, target.lengths, segments=segments)
    expected = theirs(input_ids=target.ids, attention_mask=mask, token_type_ids=segments)
    if name == "states":
        close(ours(target, None).hidden, expected.last_hidden_state, mask)
    elif name == "masked words":
        close(ours.logits(ours(target, None).hidden), expected.logits, mask)
    elif name == "spans":
        close(ours.label_scores(target), torch.stack([expected.start_logits, expected.end_logits], -1), mask)
    else:
        close(ours.label_scores(target), expected.logits, mask if name == "labels of tokens" else None)
