"""A filler: a text with masks in, the words that a masked language model puts in their place out.

>>> filler = regard.load("bert-base-uncased")                                         # doctest: +SKIP
>>> filler.fill(["the capital of france is [MASK]."])[0].masks[0][0].word             # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard import limits
from regard.directory import Loaded
from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.given import texts_given
from regard.pipelines.rows import BATCH_TOKENS, Row, computed, longest_text, probabilities, row, text_model_of
from regard.pipelines.word_ids import UNSPACED
from regard.text.parts import Warn
from regard.text.words import SPACE

MASK = "[MASK]"  # understood whatever the model's own mask token is


class Word(NamedTuple):
    """A word for a mask: its piece of the vocabulary, probability and id, and the ``text`` with it in place.

    In ``text`` the other masks stay as they are.
    """

    word: str
    probability: float
    id: int
    text: str


@dataclass(frozen=True)
class Filled:
    """A filled text: each mask has its most probable word. ``masks`` are the k best words of each, the best first."""

    text: str
    masks: tuple[tuple[Word, ...], ...]


class Filler:
    """A masked language model with its tokenizer. ``filler.model`` is the ``nn.Module``."""

    def __init__(self, loaded: Loaded) -> None:
        self._text_model = text_model_of(loaded, "masked", "fill in masked words")
        self.model, self.settings, self.tokenizer, _ = self._text_model
        self.card, self.path = loaded.card, loaded.path
        if self.settings.mask is None:
            raise RegardError(f"{loaded.path}: this model has no mask token: it does not fill in masked words")
        self.mask: int = self.settings.mask
        self.mask_token: str = self.tokenizer.tokens([self.mask])[0]
        self._masks = re.compile("|".join(map(re.escape, dict.fromkeys((self.mask_token, MASK)))))

    def has_mask(self, text: str) -> bool:
        """Whether a text has a mask: the model's own mask token, or [MASK]."""
        return self._masks.search(text) is not None

    def fill(
        self,
        texts: Sequence[str] | str,
        k: int = 5,
        *,
        batch_tokens: int = BATCH_TOKENS,
        warn: Warn | None = None,
    ) -> list[Filled]:
        """The k best words for each mask of each text; a text without a mask is an error.

        All masks of a text are predicted at once, each as if the others stayed masked. A text that is longer than the
        model has positions is read around its masks alone, and ``warn`` is called with its number.
        """
        texts = texts_given(texts)
        limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        limits.whole("k", k, 1, limits.VOCABULARY)
        for number, text in enumerate(texts, 1):
            if not self.has_mask(text):
                raise RegardError(f"text {number} has no mask: expected {MASK} in place of the word to fill in")
        rows = [self._row(number, self._masks.split(text), warn) for number, text in enumerate(texts)]
        masks = [np.flatnonzero(np.array(one.ids) == self.mask) for one in rows]
        found: list[Filled | None] = [None] * len(texts)
        size = self.tokenizer.size

        def compute(tokens: Tokens, numbers: NDArray[np.int64]) -> Tensor:
            """Probability and id of the k best tokens: [B, masks, 2, k]; rows with fewer masks than others repeat."""
            most = max(len(masks[i]) for i in numbers)
            at = torch.from_numpy(np.stack([np.resize(masks[i], most) for i in numbers])).to(tokens.ids.device)
            hidden = self.model(tokens, None).hidden  # [B, T, D]
            chosen = hidden.gather(1, at[..., None].expand(*at.shape, hidden.shape[-1]))  # [B, masks, D]
            found = probabilities(self.model.logits(chosen))  # [B, masks, V]
            best = found[..., :size].topk(min(k, size), dim=-1)  # the table may have more rows than the tokenizer
            return torch.stack([best.values, best.indices.float()], -2)  # ids are below 2^24: exact

        for number, best in computed(self._text_model, rows, compute, batch_tokens):
            found[number] = self._filled(texts[number], best[: len(masks[number])])
        return [one for one in found if one is not None]

    def _row(self, number: int, parts: list[str], warn: Warn | None) -> Row:
        """The parts of a text with a mask between each two, as ids with marks, cut to the model's positions."""
        ids: list[int] = []
        for index, part in enumerate(parts):
            last = index + 1 == len(parts)
            ids += [*self._part(part, index > 0, not last), *([] if last else [self.mask])]
        longest = longest_text(self._text_model)
        if len(ids) > longest:
            places = [index for index, one in enumerate(ids) if one == self.mask]
            if places[-1] - places[0] >= longest:
                raise RegardError(
                    f"text {number + 1}: its masks are {places[-1] - places[0]:,} subwords apart, and the model reads "
                    f"{longest:,}: give it in parts"
                )
            first = min(max(0, (places[0] + places[-1] + 1 - longest) // 2), len(ids) - longest)
            if warn:
                warn(number, f"has {len(ids):,} subwords, and the model reads {longest:,}: those around the masks")
            ids = ids[first : first + longest]
        return row(self.settings, ids)

    def _part(self, part: str, after: bool, before: bool) -> list[int]:
        """The ids of the text between two masks; ``after``, ``before``: a mask stands there."""
        # Of regard's subwords a space belongs to the word after it, which here may be the mask.
        part = part.removesuffix(" ") if before and self.tokenizer.cut is not None else part
        return self.tokenizer.encode_batch([part], continued=after)[0]

    def _filled(self, text: str, best: Tensor) -> Filled:
        """The words for the masks of a text, of which ``best`` [masks, 2, k] are probabilities and ids."""
        spans = [match.span() for match in self._masks.finditer(text)]
        masks = []
        for (start, end), (values, ids) in zip(spans, best.tolist(), strict=True):
            pieces = self.tokenizer.tokens([int(index) for index in ids])
            words = zip(pieces, values, ids, strict=True)
            masks.append(
                tuple(
                    Word(self._word(piece), p, int(index), self._joined(text[:start], piece) + text[end:])
                    for piece, p, index in words
                )
            )
        whole, at = "", 0
        for (start, end), ids in zip(spans, best[:, 1, 0].tolist(), strict=True):
            whole = self._joined(whole + text[at:start], self.tokenizer.tokens([int(ids)])[0])
            at = end
        return Filled(whole + text[at:], tuple(masks))

    def _word(self, piece: str) -> str:
        """A piece of the vocabulary as it is shown: without ▁; "##ing" stays, which is no word of its own."""
        return piece.removeprefix(SPACE) or piece

    def _joined(self, before: str, piece: str) -> str:
        """The text before a mask, and the piece in its place: one that goes on with a word takes the space away."""
        continues = piece.startswith("##") and len(piece) > 2
        if self.tokenizer.cut is not None:
            continues = piece[:1].isalpha() and not UNSPACED.match(piece)  # "▁" is no letter
            if piece.startswith(SPACE) and before and not before[-1].isspace():
                before += " "
        return (before.rstrip(" ") + piece.removeprefix("##")) if continues else before + self._word(piece)
