from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.data.batch import IGNORED, collate, pad_sources
from regard.text.settings import TextSettings

ROWS = st.lists(
    st.tuples(st.lists(st.integers(4, 99), max_size=6), st.lists(st.integers(4, 99), max_size=6)), min_size=1
)


@given(rows=ROWS, prefix=st.lists(st.integers(4, 99), max_size=2))
def test_every_token_is_at_its_place(rows: list[tuple[list[int], list[int]]], prefix: list[int]) -> None:
    settings = TextSettings(pad=1, unk=0, start=(1, *prefix))
    sources, targets = [row[0] for row in rows], [np.array(row[1], dtype=np.uint16) for row in rows]
    batch = collate(sources, targets, settings)
    assert batch.source is not None
    B, S, T = len(rows), max(map(len, sources)) + 1, max(map(len, targets)) + 1 + len(prefix)
    assert batch.source.ids.shape == (B, S) and batch.target.ids.shape == batch.labels.shape == (B, T)
    assert batch.source.ids.dtype == batch.labels.dtype == torch.int64
    for index, (source, target) in enumerate(rows):
        assert batch.source.ids[index].tolist() == [*source, 3] + [1] * (S - len(source) - 1)
        read = [1, *prefix, *target]
        assert batch.target.ids[index].tolist() == read + [1] * (T - len(read))
        assert batch.labels[index].tolist() == [IGNORED] * len(prefix) + [*target, 3] + [IGNORED] * (T - len(read))
        assert batch.source.lengths[index] == len(source) + 1
        assert batch.target.lengths[index] == len(read)
    assert batch.target_tokens == int((batch.labels != IGNORED).sum())


@given(rows=ROWS, step=st.integers(1, 4))
def test_parts_are_what_their_pairs_alone_would_be(rows: list[tuple[list[int], list[int]]], step: int) -> None:
    rows *= step  # no part is empty
    settings = TextSettings()
    sources, targets = zip(*rows, strict=True)
    parts = collate(sources, targets, settings).dealt(step)
    assert len(parts) == step
    longest = sorted(range(len(rows)), key=lambda n: -len(sources[n]) - len(targets[n]))
    tokens = []
    for number, part in enumerate(parts):
        its = [
            row for turn, row in enumerate(longest) if number in (turn % (2 * step), 2 * step - 1 - turn % (2 * step))
        ]
        alone = collate([sources[n] for n in its], [targets[n] for n in its], settings)
        tokens.append(sum(len(sources[n]) + len(targets[n]) for n in its))
        assert part.source is not None and alone.source is not None
        for mine, wanted in zip(
            (part.source.ids, part.source.lengths, part.target.ids, part.target.lengths, part.labels),
            (alone.source.ids, alone.source.lengths, alone.target.ids, alone.target.lengths, alone.labels),
            strict=True,
        ):
            assert torch.equal(mine, wanted)
        assert part.target_tokens == alone.target_tokens
    assert max(tokens) - min(tokens) <= max(len(sources[n]) + len(targets[n]) for n in longest)


def test_a_model_without_a_source_has_none() -> None:
    batch = collate(None, [[7]], TextSettings())
    assert batch.source is None
    assert batch.to("cpu").source is None
    assert batch.to("cpu").labels.tolist() == [[7, 3]]


def test_sources_alone() -> None:
    assert pad_sources([[5], []], TextSettings()).ids.tolist() == [[5, 3], [3, 0]]
