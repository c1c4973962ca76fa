"""The inputs that wait to be decoded: how long each may become, and how many of them fit into a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from regard import limits
from regard.decoding.sampling import Strategy
from regard.errors import RegardError
from regard.text.marks import target_start
from regard.text.settings import TextSettings


@dataclass(frozen=True)
class Input:
    """An input that is to be decoded, and its number, which no other input of the same call has.

    ``source``: ids without marks, None for a model without a source; ``prompt``: ids that stand before the output,
    after the start marks; ``language``: the target's, one of text.json's; ``max_tokens``: the most tokens of the
    output, end mark counted, instead of the search's limits.
    """

    number: int
    source: Sequence[int] | None
    prompt: Sequence[int] = ()
    language: str = ""
    max_tokens: int | None = None

    def limit(self, search: Strategy) -> int:
        """The most tokens of the output, end mark counted; the model's positions may allow fewer."""
        given = search.max_tokens if self.max_tokens is None else self.max_tokens
        if given is not None:
            return given
        return max(1, len(self.prompt if self.source is None else self.source) + search.max_extra)


def size(one: Input) -> int:
    """The tokens of an input in a budget, end mark counted."""
    return max(len(one.source or ()), len(one.prompt)) + 1


def tokens_of(inputs: Sequence[Input], search: Strategy) -> int:
    """About how many tokens are computed: those of the inputs, and of outputs of an absolute length, by hypothesis."""
    outputs = sum(one.max_tokens or search.max_tokens or 0 for one in inputs)
    return search.rows * (sum(map(size, inputs)) + outputs)


def inputs_of(
    sources: Sequence[Sequence[int]] | None, prompts: Sequence[Sequence[int]] | None = None, language: str = ""
) -> list[Input]:
    """Sources, prompts or both as inputs, numbered from 0."""
    return [
        Input(i, None if sources is None else sources[i], () if prompts is None else prompts[i], language)
        for i in range(len(sources if sources is not None else prompts or ()))
    ]


class Sized(NamedTuple):
    """An input, its size in the budget, the most tokens of its output, and the number of tokens before the output."""

    input: Input
    size: int
    limit: int
    before: int


class WaitingInputs:
    """A queue of inputs.

    ``longest``: how many positions the model has, None for any number; ``overrun``: for how many steps a sentence may
    be computed after it is done.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        settings: TextSettings,
        search: Strategy,
        batch_tokens: int,
        longest: int | None,
        overrun: int,
    ) -> None:
        self.settings, self.search, self.batch_tokens = settings, search, batch_tokens
        self.longest, self.overrun = longest, overrun
        # The longest first: the last batch, whose rows nobody fills any more, is then of short sentences.
        self._queue = deque(sorted(map(self._sized, inputs), key=lambda one: -one.size))

    def __len__(self) -> int:
        return len(self._queue)

    def extend(self, inputs: Iterable[Input]) -> None:
        """Further inputs, behind the others."""
        self._queue.extend(map(self._sized, inputs))

    def take(self, count: int) -> list[Sized]:
        """The next ``count`` inputs."""
        return [self._queue.popleft() for _ in range(count)]

    def fitting(self, running: int, longest: int) -> int:
        """How many of the next inputs fit beside ``running`` sentences of at most ``longest`` tokens."""
        count = 0
        for one in self._queue:
            longest = max(longest, one.size)
            if (running + count + 1) * self.search.rows * longest > self.batch_tokens:
                break
            count += 1
        return count if running else max(1, count)

    def _sized(self, one: Input) -> Sized:
        if one.max_tokens is not None:
            limits.whole(f"input {one.number + 1}: max tokens", one.max_tokens, 1, limits.EXTRA_TOKENS)
        limit = one.limit(self.search)
        before = len(target_start(self.settings, one.language)) + len(one.prompt)
        if not before:
            raise RegardError(f"input {one.number + 1}: nothing stands before the output: give a prompt")
        if self.longest is not None:  # an output ends where the model's positions end
            room = self.longest - before - self.overrun
            if room < 1:
                raise RegardError(
                    f"input {one.number + 1}: {before} tokens stand before the output, and the model has learnt "
                    f"{self.longest} positions: give a shorter prompt"
                )
            limit = min(limit, room)
        longest = max(size(one) - 1, before)
        if longest > limits.LENGTH:
            raise RegardError(f"input {one.number + 1}: {longest:,} tokens, expected at most {limits.LENGTH:,}")
        length = before + limit
        limits.product(f"input {one.number + 1}: beam × length", self.search.rows, length, limits.HYPOTHESIS_TOKENS)
        return Sized(one, size(one), limit, before)
