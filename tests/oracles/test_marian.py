"""Hugging Face's MarianMT with random weights is our Transformer: logits, greedy and beam outputs, and back again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.errors import RegardError
from regard.interop import published
from regard.interop.marian import MARIAN
from regard.interop.specials import ParsedFiles, config_ids, settings_from
from regard.models.bodies import EncoderDecoder
from regard.models.transformer import Transformer
from regard.nn.norm import LayerNorm
from regard.nn.positions import Sinusoidal
from regard.nn.sequences import Tokens
from regard.pipelines.loading import open_model
from regard.text.settings import TextSettings

transformers = pytest.importorskip("transformers")

V, PAD, EOS = 61, 60, 0
SEEDS = (0, 4, 6)  # among them: long, short and empty outputs, ended and not
SOURCES = [[5, 9, 30, 31, 2, 2, 17], [7], [44, 3, 21, 20], [11, 12, 13, 14, 15, 16, 18, 19, 22, 23]]


def marian_mt(seed: int = 0, **changes: Any) -> Any:
    """A thin MarianMTModel in fp64, its weights drawn wide, so that no two tokens come near each other."""
    sizes: dict[str, Any] = {
        "vocab_size": V, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
        "activation_function": "swish", "scale_embedding": True,
        "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD, "forced_eos_token_id": None,
    }  # fmt: skip
    config = transformers.MarianConfig(**{**sizes, **changes})
    torch.manual_seed(seed)
    model = transformers.MarianMTModel(config).double().eval()
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            norm, small = "norm.weight" in name, "bias" in name or "norm.weight" in name
            torch.nn.init.normal_(parameter, float(norm), 0.1 if small else 0.6 if "fc" in name else 0.2)
            if "fc2.weight" in name:  # what all inputs have in common would decide the output
                parameter.data -= parameter.data.mean(1, keepdim=True)
    # The last sub-layer drowns the residual: otherwise each token, whose table is tied, would only predict itself.
    model.model.decoder.layers[-1].fc2.weight.data *= 4
    model.model.decoder.layers[-1].final_layer_norm.weight.data *= 3
    model.final_logits_bias.normal_(0, 0.3)
    model.final_logits_bias[0, EOS] += 1
    # Theirs are rounded to fp32, ours are not: with the formula in both, all that is compared is computed alike.
    for side in (model.model.encoder, model.model.decoder):
        side.embed_positions.weight.data = halved_sinusoids(64, 16)
    model.generation_config.bad_words_ids = [[PAD]]
    model.generation_config.forced_eos_token_id = None
    return model


def halved_sinusoids(length: int, width: int) -> Tensor:
    rows = [
        [math.sin(p / 10000 ** (2 * i / width)) for i in range(width // 2)]
        + [math.cos(p / 10000 ** (2 * i / width)) for i in range(width // 2)]
        for p in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def imported(theirs: Any) -> EncoderDecoder:
    model: EncoderDecoder = MARIAN.import_model(theirs.config.to_dict(), theirs.state_dict())
    return model


def settings_of(theirs: Any) -> TextSettings:
    return settings_from("translation", 64, ParsedFiles(theirs.config.to_dict(), theirs.generation_config.to_dict()))


def batch(sentences: list[list[int]]) -> Tokens:
    lengths = torch.tensor([len(ids) + 1 for ids in sentences])
    ids = torch.full((len(sentences), int(lengths.max())), PAD)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence) + 1] = torch.tensor([*sentence, EOS])
    return Tokens(ids, lengths)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": V + 14},
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
        {"scale_embedding": False, "activation_function": "relu"},
    ],
    ids=["shared", "two vocabularies", "untied", "unscaled relu"],
)
def test_logits(changes: dict[str, Any]) -> None:
    theirs = marian_mt(**changes)
    ours = imported(theirs)
    source, target = batch(SOURCES), batch([[3, 8], [1, 2, 3, 4], [30], [9, 10, 11, 12, 13]])
    mask = (torch.arange(source.ids.shape[1]) < source.lengths[:, None]).long()
    with torch.inference_mode():
        expected = theirs(input_ids=source.ids, attention_mask=mask, decoder_input_ids=target.ids).logits
        got = ours.logits(ours(target, ours.encode(source)).hidden)
    assert got.dtype == torch.float64
    for b, length in enumerate(target.lengths.tolist()):
        difference = (got[b, :length] - expected[b, :length]).abs().max() / expected[b, :length].abs().max()
        assert difference <= 1e-12


def test_their_own_sinusoids_in_fp32() -> None:
    theirs = marian_mt().float()
    for side in (theirs.model.encoder, theirs.model.decoder):
        side.embed_positions.weight.data = side.embed_positions.create_weight()
    ours, source, target = imported(theirs), batch(SOURCES[3:]), batch([[PAD, 4, 5]])
    with torch.inference_mode():
        expected = theirs(input_ids=source.ids, decoder_input_ids=target.ids).logits
        got = ours.logits(ours(target, ours.encode(source)).hidden)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() / expected.abs().max() <= 1e-5


@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (2, 1.0), (5, 1.0), (5, 0.6), (4, 0.0)])
def test_outputs(beam: int, penalty: float) -> None:
    """Theirs one by one, since their limit is one for a batch; ours all at once."""
    for seed in SEEDS:
        theirs = marian_mt(seed)
        ours, settings = imported(theirs), settings_of(theirs)
        assert settings.suppressed == (PAD,) and settings.start == (PAD,)
        search = Search(beam=beam, n_best=beam, length_penalty=f"power:{penalty}", stopping="huggingface", max_extra=12)
        for result in decode(ours, SOURCES, settings, search):
            source = torch.tensor([[*SOURCES[result.index], EOS]])
            beams: dict[str, Any] = {"length_penalty": penalty, "early_stopping": "never"} if beam > 1 else {}
            with torch.inference_mode():
                out = theirs.generate(
                    source, attention_mask=torch.ones_like(source), num_beams=beam, num_return_sequences=beam,
                    max_new_tokens=len(SOURCES[result.index]) + 12, do_sample=False, return_dict_in_generate=True,
                    output_scores=True, **beams,
                )  # fmt: skip
            expected = [cut(row[1:]) for row in out.sequences.tolist()]
            assert [h.ids for h in result.hypotheses] == expected
            if beam > 1:
                got = [h.normalized for h in result.hypotheses]
                assert got == pytest.approx(out.sequences_scores.tolist(), rel=1e-5)


def cut(ids: list[int]) -> list[int]:
    """Up to the end mark."""
    return ids[: ids.index(EOS)] if EOS in ids else ids


def test_the_outputs_are_not_trivial() -> None:
    """Random weights that say one thing whatever they read would agree with anything."""
    outputs, ended = set(), 0
    for seed in SEEDS:
        theirs = marian_mt(seed)
        ours, settings = imported(theirs), settings_of(theirs)
        for result in decode(ours, SOURCES, settings, Search(beam=5, n_best=5, max_extra=12)):
            outputs |= {(seed, result.index, *hypothesis.ids) for hypothesis in result.hypotheses}
            ended += sum(not hypothesis.at_limit for hypothesis in result.hypotheses)
    assert len(outputs) == 60 and 15 <= ended <= 45
    assert len({token for _, _, *ids in outputs for token in ids}) >= 20


def test_there_and_back() -> None:
    theirs = marian_mt()
    before = theirs.state_dict()
    ours = imported(theirs)
    config, weights = MARIAN.export_model(ours)
    config |= config_ids(settings_of(theirs), "translation")
    assert set(weights) == {name for name in before if name not in EXTRA}
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    given = theirs.config.to_dict() | {"architectures": ["MarianMTModel"]}
    assert {key: config[key] for key in config if key in given} == {key: given[key] for key in config if key in given}
    again = transformers.MarianMTModel(transformers.MarianConfig(**config)).double().eval()
    missing, unexpected = again.load_state_dict(weights, strict=False)
    assert set(missing) <= EXTRA and not unexpected


EXTRA = {
    "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight",
    "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight",
}  # fmt: skip


def test_our_model_runs_there() -> None:
    """A model of ours that has Marian's shape, without an output bias, gives its logits there."""
    torch.manual_seed(1)
    options = Transformer(
        width=16, heads=2, feedforward=24, encoder_layers=1, decoder_layers=2, positions=Sinusoidal(interleaved=False)
    )
    ours = options.build(V).eval()
    config, weights = MARIAN.export_model(ours)
    config |= config_ids(settings_of(marian_mt()), "translation")
    theirs = transformers.MarianMTModel(transformers.MarianConfig(**config)).eval()
    theirs.load_state_dict(weights, strict=False)
    theirs.tie_weights()
    source, target = batch(SOURCES[:1]), batch([[PAD, 4, 5]])
    with torch.inference_mode():
        expected = theirs(input_ids=source.ids, decoder_input_ids=target.ids).logits
        got = ours.logits(ours(target, ours.encode(source)).hidden)
    assert (got - expected).abs().max() / expected.abs().max() <= 1e-5


def test_its_folder(tmp_path: Path) -> None:
    theirs = marian_mt()
    theirs.save_pretrained(tmp_path)
    loaded, ours = open_model(tmp_path, dtype=torch.float64), imported(theirs)
    assert loaded.task == "translation" and loaded.settings == settings_of(theirs) and loaded.tokenizer is None
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), ours.parameters(), strict=True))  # type: ignore[attr-defined]
    published.write(loaded, tmp_path / "ours")
    again = open_model(tmp_path / "ours", dtype=torch.float64)
    assert again.settings == loaded.settings and again.options == loaded.options
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "ours")
    assert theirs.generation_config.bad_words_ids == [[PAD]]


def test_faults_are_named() -> None:
    theirs = marian_mt()
    config, weights = theirs.config.to_dict(), theirs.state_dict()
    lacking = {k: v for k, v in weights.items() if k != "model.decoder.layers.1.fc1.bias"}
    wrong_lm_head = {**weights, "lm_head.weight": weights["lm_head.weight"] + 1}
    positions = "model.encoder.embed_positions.weight"
    cases: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
        (config, lacking, "'model.decoder.layers.1.fc1.bias' is missing"),
        (config, {**weights, "model.decoder.layer.0.x": weights["lm_head.weight"]}, "has no place in this model"),
        (config, wrong_lm_head, "'lm_head.weight' differs from 'model.shared.weight'"),
        (config, {**weights, positions: weights[positions].flip(0)}, "is not what it is in every model"),
        ({**config, "decoder_ffn_dim": 8}, weights, "decoder_ffn_dim = 8: expected the same number"),
        ({**config, "activation_function": "tanh"}, weights, "activation_function = 'tanh': expected one of"),
        ({**config, "model_type": "bart"}, weights, "model_type = 'bart': expected 'marian'"),
        ({**config, "d_model": None}, weights, "config.json has no 'd_model'"),
        ({**config, "encoder_layers": 400}, weights, "403 layers, but there are 117 tensors"),
        ({**config, "encoder_layers": 10**9}, weights, "'model.encoder_layers' is 1000000000: expected at most"),
        ({**config, "d_model": "16"}, weights, "'model.width' is '16'"),
        ({**config, "max_position_embeddings": 10**12}, weights, "max_position_embeddings = 1000000000000: expected"),
        ({**config, "vocab_size": 50}, weights, "vocab_size = 50 and decoder_vocab_size = 61: expected the same"),
        ({**config, "vocab_size": 50, "decoder_vocab_size": 50}, weights, "the weights do not fit the configuration"),
        ({**config, "layer_types": ["full"]}, weights, "'layer_types' = .*: regard does not know this key"),
        ({**config, "normalize_before": True}, weights, "normalize_before = True: regard has models with False alone"),
    ]
    for changed, tensors, message in cases:
        with pytest.raises(RegardError, match=message.replace("(", r"\(")):
            MARIAN.import_model(changed, tensors)
    with pytest.raises(RegardError, match="MarianMT cannot hold this model: order would have to be post"):
        MARIAN.config_from(replace(MARIAN.options_from(config), order="pre"), V)
    options = MARIAN.options_from(config)
    attention = [{"key_value_heads": 1}, {"head_width": 3}, {"bias": "qkv"}, {"scale": 1.0}, {"window": 4}]
    others = [{"embedding_norm": LayerNorm()}, {"output_scale": 0.5}, {"share": "inputs"}]
    for changes in [*attention, *others]:
        with pytest.raises(RegardError, match=f"cannot hold this model: {next(iter(changes))} would have to be"):
            MARIAN.config_from(replace(options, **changes), V)
    same = replace(options, head_width=options.width // options.heads, key_value_heads=options.heads)
    assert MARIAN.config_from(same, V) == MARIAN.config_from(options, V)
    MARIAN.config_from(replace(options, final_dropout=0.1), V)  # changes no output of a trained model


def test_a_copy_stands_in_for_the_tensor_that_was_left_out() -> None:
    """Of tied tensors some writers keep the alphabetically first."""
    theirs = marian_mt()
    weights = dict(theirs.state_dict())
    for name in ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
        del weights[name]
    ours = MARIAN.import_model(theirs.config.to_dict(), weights)
    assert torch.equal(ours.source_embedding.table.weight, theirs.lm_head.weight)
