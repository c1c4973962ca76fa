"""The engine with the real models: cached beams against forced scores, and other batches."""

from __future__ import annotations

import pytest
import torch
from toy import ToySettings, sentences

from regard.decoding.engine import Search, decode
from regard.decoding.scoring import forced_scores
from regard.models.registry import options_from

torch.set_num_threads(1)
SETTINGS = ToySettings()
TINY = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1}
MODELS = {
    "transformer": {"architecture": "transformer", **TINY},
    "rotary": {"architecture": "transformer", "positions": "rotary", "order": "pre", "norm": "rms_norm", **TINY},
    "relative": {"architecture": "transformer", "positions": "relative_bias", **TINY},
    "rnn": {"architecture": "rnn", "width": 16},
    "decoder": {"architecture": "decoder", "width": 16, "heads": 2, "feedforward": 32, "layers": 2},
}


def build(name, seed=0):
    torch.manual_seed(seed)
    model = options_from(MODELS[name]).build(40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_beams_score_is_the_forced_score_in_any_batch(name):
    model, inputs = build(name), sentences(64, 9)
    given = {"sources": inputs} if model.has_source else {"sources": None, "prompts": inputs}
    prompts = None if model.has_source else inputs
    for beam in (1, 4):
        search = Search(beam=beam, n_best=beam, max_extra=12)
        results = [
            list(decode(model, settings=SETTINGS, search=search, batch_tokens=size, **given))
            for size in (1, 80 * beam, 1 << 20)
        ]
        for one, eight, all_of_them in zip(*results, strict=True):
            for other in (eight, all_of_them):
                assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses]
                for a, b in zip(one.hypotheses, other.hypotheses, strict=True):
                    assert a.score == pytest.approx(b.score, abs=1e-4)
                    assert a.normalized == pytest.approx(b.normalized, abs=1e-4)
        for n in range(beam):
            best = [r.hypotheses[n] for r in results[2] if n < len(r.hypotheses)]
            index = [r.index for r in results[2] if n < len(r.hypotheses)]
            forced = forced_scores(
                model,
                [inputs[i] for i in index] if model.has_source else None,
                [h.ids for h in best],
                SETTINGS,
                prompts=None if prompts is None else [inputs[i] for i in index],
            )
            for hypothesis, scored in zip(best, forced, strict=True):
                assert scored.score == pytest.approx(hypothesis.score, abs=1e-4)
                assert len(scored.token_scores) == len(hypothesis.ids) + 1


def test_training_goes_on_after_decoding():
    """Decoding runs without gradients; nothing that it leaves behind may stop a backward pass."""
    from regard.nn.sequences import Tokens

    model = build("transformer").train()
    list(decode(model, sentences(4), SETTINGS, Search(beam=2, max_extra=5)))
    assert model.training
    tokens = Tokens(torch.tensor([[5, 6, 7]]), torch.tensor([3]))
    model.logits(model(tokens, model.encode(tokens)).hidden).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_forced_scores_of_nothing():
    model = build("transformer")
    assert forced_scores(model, [], [], SETTINGS) == []
    one, other = forced_scores(model, [[5], []], [[], [7, 8]], SETTINGS)
    assert len(one.token_scores) == 1 and len(other.token_scores) == 3
    assert forced_scores(model, [[5]], [[]], SETTINGS, ended=False)[0].score == 0.0
