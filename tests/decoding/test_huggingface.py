"""``stopping="huggingface"`` and ``"first"`` against ``generate`` itself: the same model, wrapped into our contract."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toy import ToySettings, sentences

from regard.decoding.engine import Search, decode

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
EOS, PAD, VOCABULARY = 0, 39, 40
SETTINGS = ToySettings(pad=PAD, ends=(EOS,), source_after=(EOS,), start=(PAD,), suppressed=(PAD,))


def marian(seed, stopping):
    torch.manual_seed(seed)
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, decoder_vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
        forced_eos_token_id=None, bad_words_ids=None, init_std=0.6, dropout=0.0,
    )  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    model.final_logits_bias[0, EOS] = 6.0 if stopping == "first" else 1.5  # how soon outputs end
    return model


class Wrapped(torch.nn.Module):
    """A model of the contract that reads all tokens anew at every step."""

    has_source = True
    longest = None  # what is decoded here is short

    def __init__(self, model):
        super().__init__()
        self.model = model

    def encode(self, source):
        mask = (torch.arange(source.ids.shape[1]) < source.lengths[:, None]).long()
        hidden = self.model.get_encoder()(input_ids=source.ids, attention_mask=mask).last_hidden_state
        return SimpleNamespace(hidden=hidden, mask=mask)

    def start(self, memory, beams, capacity, batch=None):
        return State(memory.hidden, memory.mask, beams)

    def step(self, tokens, state, lengths=None, extent=None, live=None):
        batch, beams = state.hidden.shape[0], state.beams
        if lengths is not None:
            state.ids = tokens[:, None].repeat(1, beams, 1)
        else:
            state.ids = torch.cat((state.ids, tokens[:, :, None]), 2)
        out = self.model.model.decoder(
            input_ids=state.ids.flatten(0, 1),
            encoder_hidden_states=state.hidden.repeat_interleave(beams, 0),
            encoder_attention_mask=state.mask.repeat_interleave(beams, 0),
            use_cache=False,
        ).last_hidden_state
        return out[:, -1].view(batch, beams, -1)[:, : 1 if lengths is not None else beams]

    def logits(self, hidden, candidates=None):
        return self.model.lm_head(hidden) + self.model.final_logits_bias[0]

    def output_table(self):
        return self.model.lm_head.weight, None


class State:
    def __init__(self, hidden, mask, beams):
        self.hidden, self.mask, self.beams, self.ids = hidden, mask, beams, None

    def follow(self, parents):
        self.ids = self.ids.gather(1, parents[:, :, None].expand_as(self.ids))

    def keep(self, index):
        self.hidden, self.mask, self.ids = self.hidden[index], self.mask[index], self.ids[index]


def inputs_of_one_length():
    """Inputs of one length, so that a batch of them has one limit in both libraries."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, PAD, (24, 4), generator=generator).tolist()


def of_generate(model, inputs, beam, ends=(EOS,), **options):
    """Hugging Face's ids without marks, and its scores, best first: one list an input."""
    found = model.generate(
        torch.tensor([[*ids, EOS] for ids in inputs]), num_beams=beam, num_return_sequences=beam, do_sample=False,
        bad_words_ids=[[PAD]], return_dict_in_generate=True, output_scores=True, output_logits=True, **options,
    )  # fmt: skip
    if beam == 1:  # greedy search gives scores of tokens alone
        steps = model.compute_transition_scores(found.sequences, found.logits, normalize_logits=True).tolist()
        rows = found.sequences[:, 1:].tolist()
        lengths = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in rows]
        scores = [sum(step[:length]) for step, length in zip(steps, lengths, strict=True)]
    else:
        scores = found.sequences_scores.tolist()
    rows = [[token for token in row if token not in (PAD, *ends)] for row in found.sequences[:, 1:].tolist()]
    pairs = list(zip(rows, scores, strict=True))
    return [pairs[at : at + beam] for at in range(0, len(pairs), beam)]


@pytest.mark.parametrize("ending", [5.0, 9.0, -30.0], ids=["seldom", "often", "never"])
@pytest.mark.parametrize("beam", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("stopping", "early"), [("huggingface", "never"), ("first", True)])
def test_the_n_best_are_those_of_generate_at_every_limit(stopping, early, beam, ending):
    """At the longest output hypotheses are taken as they are, if they have ended or not."""
    model, inputs = marian(beam, stopping), inputs_of_one_length()
    model.final_logits_bias[0, EOS] = ending
    ended = unended = 0
    for limit in range(1, 9):
        search = Search(
            beam=beam, n_best=beam, length_penalty="power:1.0", max_extra=limit - len(inputs[0]), stopping=stopping
        )
        mine = list(decode(Wrapped(model), inputs, SETTINGS, search))
        options = {"early_stopping": early, "length_penalty": 1.0} if beam > 1 else {}
        theirs = of_generate(model, inputs, beam, max_new_tokens=limit, **options)
        for result, expected in zip(mine, theirs, strict=True):
            assert len(result.hypotheses) == beam
            for hypothesis, (ids, score) in zip(result.hypotheses, expected, strict=True):
                assert hypothesis.ids == ids
                assert (hypothesis.score if beam == 1 else hypothesis.normalized) == pytest.approx(score, abs=1e-4)
                assert hypothesis.at_limit == (hypothesis.end is None)
                ended, unended = ended + (hypothesis.end == EOS), unended + hypothesis.at_limit
    assert ended >= 20 or ending < 0
    assert unended >= 20 or ending > 8


@pytest.mark.parametrize("ends", [(), (EOS, 7), (EOS, 7, 11, 12)], ids=len)
@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize(("stopping", "early"), [("huggingface", "never"), ("first", True)])
def test_none_or_several_tokens_end_an_output(stopping, early, beam, ends):
    model, inputs = marian(beam, stopping), inputs_of_one_length()
    for end in ends:
        model.final_logits_bias[0, end] = 4.0
    model.generation_config.eos_token_id = list(ends) or None
    for limit in (1, 2, 5, 8):
        search = Search(
            beam=beam, n_best=beam, length_penalty="power:1.0", max_extra=limit - len(inputs[0]), stopping=stopping
        )
        mine = decode(Wrapped(model), inputs, replace(SETTINGS, ends=ends), search)
        options = {"early_stopping": early, "length_penalty": 1.0} if beam > 1 else {}
        theirs = of_generate(model, inputs, beam, ends, max_new_tokens=limit, **options)
        for result, expected in zip(mine, theirs, strict=True):
            for hypothesis, (ids, score) in zip(result.hypotheses, expected, strict=True):
                assert hypothesis.ids == ids
                assert (hypothesis.score if beam == 1 else hypothesis.normalized) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.0, -0.7, 2.0])
@pytest.mark.parametrize(("stopping", "early"), [("huggingface", "never"), ("first", True)])
def test_the_n_best_are_those_of_generate(stopping, early, alpha):
    beam, extra, sources = 4, 12, [ids for ids in sentences(7, 3, vocabulary=PAD) if ids]
    compared = 0
    for seed in range(2):
        model = marian(seed, stopping)
        search = Search(beam=beam, n_best=beam, length_penalty=f"power:{alpha}", max_extra=extra, stopping=stopping)
        mine = list(decode(Wrapped(model), sources, SETTINGS, search, batch_tokens=1))
        for ids, result in zip(sources, mine, strict=True):
            theirs = model.generate(
                torch.tensor([[*ids, EOS]]), num_beams=beam, num_return_sequences=beam, length_penalty=alpha,
                early_stopping=early, max_new_tokens=len(ids) + extra, bad_words_ids=[[PAD]],
                return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            compared += 1
            assert len(result.hypotheses) == beam
            for n, hypothesis in enumerate(result.hypotheses):
                row = theirs.sequences[n, 1:].tolist()
                row = row[: row.index(EOS)] if EOS in row else [token for token in row if token != PAD]
                assert hypothesis.ids == row
                assert hypothesis.normalized == pytest.approx(theirs.sequences_scores[n].item(), abs=1e-4)
    assert compared >= 8
