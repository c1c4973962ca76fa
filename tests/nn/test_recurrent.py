"""The recurrent parts: the gates are PyTorch's, additive attention is the paper's formula, padding changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from regard.nn.layout import Layout
from regard.nn.recurrent import AdditiveAttention, AttentiveRecurrent, AttentiveState, Recurrent, RecurrentState, gated
from regard.nn.sequences import Memory, Tokens

torch.set_num_threads(1)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return module.double().eval()


def test_gates_equal_torchs_gru_cell() -> None:
    cell = nn.GRUCell(5, 7).double()
    x, h = torch.randn(3, 5).double(), torch.randn(3, 7).double()
    inputs = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    states = nn.functional.linear(h, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gated(inputs, states, h), cell(x, h), rtol=1e-12, atol=1e-12)


def test_additive_attention_is_the_formula() -> None:
    attention = drawn(AdditiveAttention(6, 4))
    states, memory = torch.randn(2, 3, 6).double(), torch.randn(2, 5, 4).double()
    lengths = torch.tensor([5, 2])
    got = attention(states, *attention.project_memory(memory), Layout.cross(lengths, 5))
    assert got.shape == (2, 3, 4)
    for b, s in enumerate(lengths.tolist()):
        for q in range(3):
            keys = attention.key(memory[b, :s])
            scores = torch.tanh(attention.query(states[b, q]) + keys) @ attention.vector
            torch.testing.assert_close(got[b, q], scores.softmax(0) @ memory[b, :s], rtol=1e-12, atol=1e-12)


def test_encoder_reads_each_sentence_from_its_own_end() -> None:
    encoder = drawn(Recurrent(layers=2).build(8))
    x, lengths = torch.randn(3, 6, 8).double(), torch.tensor([4, 6, 1])
    out = encoder(x, lengths)
    assert out.shape == (3, 6, 8)
    for b, size in enumerate(lengths.tolist()):
        alone = encoder(x[b : b + 1, :size], torch.tensor([size]))
        torch.testing.assert_close(out[b : b + 1, :size], alone, rtol=1e-12, atol=1e-12)
        assert not out[b, size:].any()


def test_decoder_steps_equal_its_whole_pass() -> None:
    decoder = drawn(AttentiveRecurrent(layers=3).build(8, 8))
    memory = Memory(torch.randn(2, 5, 8).double(), torch.tensor([5, 3]))
    key, value = decoder.unit.cross_attention.project_memory(memory.hidden)
    layout = Layout.cross(memory.lengths, 5)
    x, state = torch.randn(2, 4, 8).double(), decoder.first_state(memory)
    hidden, states = decoder(x, state, key, value, layout)
    assert hidden.shape == (2, 4, 8) and states.shape == (2, 4, 3, 8)
    state = state.unsqueeze(2)  # one hypothesis
    for t in range(4):
        step, state = decoder.step(x[:, t : t + 1], state, key, value, layout)
        torch.testing.assert_close(step, hidden[:, t : t + 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state.squeeze(2), states[:, t], rtol=1e-12, atol=1e-12)


def test_a_small_translator_learns_to_copy() -> None:
    """The whole model can be trained: attention has to find the word that stands at the same place."""
    from regard.models.rnn import RNN

    torch.manual_seed(0)
    model = RNN(width=32, dropout=0.0).build(12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    source = torch.randint(4, 12, (64, 6))
    target = torch.cat([torch.full((64, 1), 2), source[:, :-1]], 1)
    lengths = torch.full((64,), 6)
    for _ in range(120):
        logits = model.logits(model(Tokens(target, lengths), model.encode(Tokens(source, lengths))).hidden)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), source.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


def test_a_state_holds_any_tensors() -> None:
    """An LSTM has two, of any shape behind the hypotheses: they follow, leave and enter together."""

    def state(first: int, batch: int) -> AttentiveState:
        number = torch.arange(first, first + batch, dtype=torch.float32)
        matrix = number[:, None, None, None]
        tensors = {"hidden": number[:, None, None].expand(-1, 2, 3), "cell": matrix.expand(-1, 1, 4, 5)}
        memory = matrix.expand(-1, 1, 6, 7)
        return AttentiveState(tensors, 2, memory, memory, torch.full((batch,), 6))

    one = state(0, 3)
    assert one.tensors["hidden"].shape == (3, 2, 2, 3) and one.tensors["cell"].shape == (3, 1, 2, 4, 5)
    for tensor in one.tensors.values():
        tensor[:, :, 1] += 0.5  # the second hypothesis
    one.follow(torch.tensor([[1, 1], [0, 1], [1, 0]]))
    one.keep(torch.tensor([2, 0]))
    one.admit(state(10, 2), torch.tensor([1]))
    for tensor in one.tensors.values():
        numbers = tensor.transpose(1, 2).flatten(2)  # [B, N, …]
        assert torch.equal(numbers.amin(2), numbers.amax(2))
        assert numbers[:, :, 0].tolist() == [[2.5, 2.0], [10.0, 10.0], [11.0, 11.0]]


def test_a_state_needs_no_memory() -> None:
    """Sums of linear attention, say, and the position of a model without a source."""

    def state(first: int, batch: int) -> RecurrentState:
        sums = torch.arange(first, first + batch).view(batch, 1, 1, 1).expand(batch, 2, 3, 4).double()
        return RecurrentState({"sums": sums, "position": torch.arange(first, first + batch)[:, None]}, 2)

    one = state(0, 3)
    one.tensors["position"][2, 0] = torch.tensor([20, 21])
    one.follow(torch.tensor([[0, 1], [1, 1], [1, 0]]))
    assert one.tensors["position"][:, 0].tolist() == [[0, 0], [1, 1], [21, 20]]
    one.keep(torch.tensor([2, 0]))
    one.admit(state(5, 2), torch.tensor([1]))
    assert (one.batch, one.beams) == (3, 2)
    assert one.tensors["position"][:, 0].tolist() == [[21, 20], [5, 5], [6, 6]]
    assert one.tensors["sums"].shape == (3, 2, 2, 3, 4)
    assert one.tensors["sums"][:, 0, 0, 0, 0].tolist() == [2, 5, 6]
    one.keep(torch.tensor([], dtype=torch.int64))
    assert one.batch == 0
