"""Hugging Face's LLaMA with random weights, read from its folder: logits, greedy and beam outputs, and back again.

Rotary angles are fp32 in both, and their last digit may differ: 1e-5 at lengths up to 512.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from hugging import check_search, config_for, drawn, generated, inputs, lifted, mask_of, opened, sentences, worst
from safetensors.torch import load_file

from regard.accel.prepared import prepare
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.interop import published
from regard.nn.positions import Rotary
from regard.nn.rotary import LinearScaling, Llama3Scaling, Scaling
from regard.text.marks import target_start

BOS, EOS, OTHER = 1, 2, 5
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "max_position_embeddings": 1024, "bos_token_id": BOS,
                         "eos_token_id": EOS}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "llama 3": {"rope_parameters": LLAMA3, "eos_token_id": [EOS, OTHER], "num_key_value_heads": 1},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, "head_dim": 10},
    "tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True, "hidden_size": 24},
    "biases of attention": {"attention_bias": True, "hidden_act": "gelu"},
    "wide heads": {"head_dim": 22, "num_attention_heads": 2, "num_key_value_heads": 1},
}
SEARCHES = [
    pytest.param(name, *search, marks=[] if (name, search) == ("llama 3", (4, 1.0)) else pytest.mark.slow)
    for name in ("llama 3", "grouped", "linear")
    for search in ((1, 1.0), (4, 1.0), (3, 0.5))
]
FAST = ("grouped", "llama 3", "linear", "tied")
QUICK = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in SHAPES]
#: Our scaling, and their parameters.
SCALINGS: dict[str, tuple[Scaling | None, dict[str, Any]]] = {
    "plain": (None, {"rope_type": "default"}),
    "llama3": (Llama3Scaling(8.0, 1.0, 4.0, 64), LLAMA3),
    "linear": (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
}


def llama(name: str, seed: int = 0) -> Any:
    return drawn(transformers.LlamaForCausalLM(config_for("LlamaConfig", **SIZES | SHAPES[name])), seed)


@pytest.mark.parametrize("name", QUICK)
def test_logits_and_back(name: str, tmp_path: Path) -> None:
    theirs = llama(name)
    loaded = opened(theirs, tmp_path / "theirs")
    assert loaded.task == "language_model" and loaded.settings is not None
    assert loaded.settings.start == (BOS,) and loaded.settings.source_after == ()
    assert loaded.settings.ends == ((EOS, OTHER) if name == "llama 3" else (EOS,))
    text = sentences(1, [9, 1, 48 if name == "grouped" else 512, 4])
    with torch.inference_mode(), lifted():
        expected = theirs(input_ids=text.ids, attention_mask=mask_of(text)).logits
        got = loaded.model.logits(loaded.model.forward(text, None).hidden)
        assert worst(got, expected, text.lengths) <= 1e-5
        prepared = prepare(published.load(tmp_path / "theirs").model, torch.float32)
        got = prepared.logits(prepared.forward(text, None).hidden)
        assert worst(got.double(), expected, text.lengths) <= 1e-3  # fp32, and angles at position 512
    published.write(loaded, tmp_path / "ours")
    before, after = (load_file(tmp_path / each / "model.safetensors") for each in ("theirs", "ours"))
    assert before.keys() == {each for each in after if each in before}
    assert all(torch.equal(before[each], after[each]) for each in before)
    assert not any(after[each].any() for each in after.keys() - before.keys())  # ours has all biases or none
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    with torch.inference_mode(), lifted():
        back = again(input_ids=text.ids, attention_mask=mask_of(text)).logits
    assert worst(back, expected, text.lengths) <= 1e-12


@pytest.mark.parametrize("scaling", list(SCALINGS))
@pytest.mark.parametrize("theta", [500.0, 500_000.0])
def test_angles(scaling: str, theta: float) -> None:
    """Far positions too, where the rounding of a frequency in fp32 counts."""
    part, parameters = SCALINGS[scaling]
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters={**parameters, "rope_theta": theta}
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    positions = torch.tensor([[0, 1, 63, 64, 500, 8191]])
    cosine, sine = embedding(torch.zeros(1), positions)
    ours = Rotary(theta, part).build_rotation(64)(6, positions, torch.device("cpu"))
    # The same operations in fp32, hence the same rounding; only cosines and sines may differ in the last digit.
    assert (ours.cosine[0, 0] - cosine[0, :, :32]).abs().max() <= 1e-6
    assert (ours.sine[0, 0] - sine[0, :, :32]).abs().max() <= 1e-6


@pytest.mark.parametrize(("name", "beam", "penalty"), SEARCHES)
def test_outputs(name: str, beam: int, penalty: float, tmp_path: Path) -> None:
    theirs = llama(name, seed=3)
    loaded = opened(theirs, tmp_path / "theirs")
    assert loaded.settings is not None
    search = Search(beam=beam, length_penalty=f"power:{penalty}", stopping="huggingface", max_extra=8)
    groups = inputs(4)
    expected = [ids for group in groups for ids in generated(theirs, [BOS], group, [], search, pad_token_id=0)]
    prompts = [ids for group in groups for ids in group]
    check_search(decode(loaded.model, None, loaded.settings, search, prompts=prompts), expected)


def test_files_of_transformers_4(tmp_path: Path) -> None:
    """rope_theta and rope_scaling stand apart there, and its kind may be called type."""
    loaded = opened(llama("grouped"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    theta = config.pop("rope_parameters")["rope_theta"]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"rope_theta": theta}, None),
        ({}, None),
        ({"rope_scaling": None, "rope_theta": 1e4}, None),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, LinearScaling(4.0)),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 64}}, Llama3Scaling(8.0, 1.0, 4.0, 64)),
    ]  # fmt: skip
    for keys, scaling in cases:
        (tmp_path / "config.json").write_text(json.dumps(config | keys), encoding="utf-8")
        options = published.load(tmp_path).options
        assert (
            options.positions.scaling == scaling and options.positions.theta == theta == loaded.options.positions.theta
        )


def test_its_tokenizer(tmp_path: Path) -> None:
    """A first token before every text, and pieces of bytes."""
    letters = ["▁", "t", "h", "e", "th", "the", "▁the", "w"]
    names = ["<unk>", "<s>", "</s>", *letters, *(f"<0x{number:02X}>" for number in range(256))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = transformers.LlamaTokenizer(
        vocab=vocabulary, merges=[("t", "h"), ("th", "e"), ("▁", "the")], add_bos_token=True
    )
    tokenizer.save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(names), **SIZES))
    loaded = opened(model, tmp_path)
    assert loaded.settings is not None and loaded.tokenizer is not None
    for text in ("the wé", "the", "学 w"):
        ids = [*target_start(loaded.settings), *loaded.tokenizer.encode(text)]
        assert ids == tokenizer(text)["input_ids"]
