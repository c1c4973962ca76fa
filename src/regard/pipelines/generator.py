"""A generator: prompts in, their continuations out, by a language model.

>>> generator = regard.load("runs/shakespeare")                       # doctest: +SKIP
>>> generator.generate(["ROMEO:"], temperature=0.8)[0].text           # doctest: +SKIP
>>> for piece in generator.stream("ROMEO:"): print(piece, end="")     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from regard import limits
from regard.decoding.backends import Engine
from regard.decoding.engine import steps
from regard.decoding.ranking import LengthPenalty
from regard.decoding.running_batch import Hypothesis
from regard.decoding.sampling import Sampling, Strategy
from regard.decoding.search import Search
from regard.decoding.waiting import Input
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models.registry import architecture_of, capabilities
from regard.pipelines.given import texts_given
from regard.pipelines.growing import GrowingText, text_after
from regard.surrogates import without_halves
from regard.text.marks import target_start

Finish = Literal["end", "stop", "limit"]
MAX_TOKENS = 256
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Generation:
    """A continuation of a prompt.

    ``score`` is the sum of the log-probabilities of ``ids`` under the model, and of the end token if there is one.
    ``finish`` says what ended it: an end token; a stop string, before which ``text`` ends, and with which ``ids`` end;
    or the limit. ``alternatives`` are the other samples, or the rest of the n best of a beam.
    """

    text: str
    ids: list[int]
    tokens: list[str]
    score: float
    finish: Finish
    alternatives: list[Generation] = field(default_factory=list)


class Generator:
    """A language model with its tokenizer. ``generator.model`` is the ``nn.Module``."""

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        if self.model.has_source:
            raise RegardError(f"{loaded.path}: this model has a source: it translates, it does not continue texts")
        if not capabilities(architecture_of(loaded.options)).generates:
            raise RegardError(
                f"{loaded.path}: this model reads whole texts, it does not continue them: its task is {loaded.task}"
            )
        self.settings, _, self.tokenizer = loaded.text
        self.card, self.path = loaded.card, loaded.path
        self._engine = Engine(loaded, None)

    def generate(
        self,
        prompts: Sequence[str] | str = "",
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        beam: int | None = None,
        seed: int = 0,
        n: int = 1,
        stop: Sequence[str] = (),
        batch_tokens: int = BATCH_TOKENS,
        numbers: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Continue each prompt by at most ``max_tokens`` tokens, end token counted: ``n`` samples, or the n best.

        Tokens are drawn (``Sampling``; ``temperature`` 0: the likeliest); with ``beam`` they are searched for instead.
        The draws depend on ``seed`` and the number of the prompt (``numbers``; None: from 0): a prompt is continued
        alike whatever stands beside it. An output ends before the first of the ``stop`` strings.
        """
        prompts = texts_given(prompts, "prompt")
        limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        strategy = self.strategy(
            max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, beam=beam,
            seed=seed, n=n,
        )  # fmt: skip
        stop = _checked(stop)
        inputs = self._inputs(prompts, numbers)
        if stop and isinstance(strategy, Sampling):
            outputs = _Outputs(self, inputs, stop, n)
            for _ in outputs.pieces(self._engine.prepared(inputs, strategy), strategy, batch_tokens):
                pass
            return [outputs.result(one.number) for one in inputs]
        results = self._engine(inputs, strategy, batch_tokens)
        return [
            _with_alternatives([self._generation(one, hypothesis, stop) for hypothesis in result.hypotheses])
            for one, result in zip(inputs, results, strict=True)
        ]

    def stream(self, prompt: str = "", *, stop: Sequence[str] = (), **options: Any) -> Iterator[str]:
        """The continuation of a prompt in pieces, as they are produced: the text that ``generate`` gives.

        The options are those of ``generate``, without ``beam`` and ``n``: a beam knows its output at its end only.
        """
        strategy = self.strategy(**options)
        if not isinstance(strategy, Sampling) or strategy.n > 1:
            raise RegardError("a stream is one sample: expected no beam and no n")
        inputs = self._inputs(texts_given([prompt], "prompt"))
        outputs = _Outputs(self, inputs, _checked(stop), 1)
        return outputs.pieces(self._engine.prepared(inputs, strategy), strategy, BATCH_TOKENS)

    def strategy(
        self,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        beam: int | None = None,
        seed: int = 0,
        n: int = 1,
    ) -> Strategy:
        """The strategy with these options of ``generate``; wrong ones are a RegardError."""
        if beam is None:
            return Sampling(
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, n=n, max_tokens=max_tokens
            )
        if (temperature, top_k, top_p, min_p) != (1.0, 0, 1.0, 0.0):
            raise RegardError("a beam searches and draws nothing: give beam, or temperature, top-k, top-p and min-p")
        penalty = LengthPenalty.parse(self.settings.length_penalty)
        return Search(beam=beam, n_best=n, length_penalty=penalty, max_tokens=max_tokens, stopping="first")

    def _inputs(self, prompts: Sequence[str], numbers: Sequence[int] | None = None) -> list[Input]:
        numbers = range(len(prompts)) if numbers is None else numbers
        if len(set(numbers)) != len(prompts):
            raise RegardError(f"{len(prompts)} prompts and {len(set(numbers))} numbers: expected one for each")
        rows = self.tokenizer.encode_batch([without_halves(prompt) for prompt in prompts])
        start, longest = len(target_start(self.settings)), self.model.longest
        for number, ids in zip((each + 1 for each in numbers), rows, strict=True):
            if not start and not ids:
                raise RegardError(f"prompt {number} is empty, and this model has no start token: give --prompt TEXT")
            if longest is not None and start + len(ids) >= longest:
                raise RegardError(
                    f"prompt {number}: {start + len(ids):,} tokens, and the model has learnt {longest:,} positions, "
                    "of which at least one is for the output: give a shorter prompt"
                )
        return [Input(number, None, ids) for number, ids in zip(numbers, rows, strict=True)]

    def _generation(self, one: Input, found: Hypothesis, stop: Sequence[str]) -> Generation:
        """The result of a hypothesis; a stop string cuts the text of a beam's."""
        text = text_after(self.tokenizer, one.prompt, found.ids)
        cut = text_after(self.tokenizer, one.prompt, found.ids, stop) if stop else text
        finish: Finish = "stop" if cut != text else "limit" if found.end is None else "end"
        return Generation(cut, found.ids, self.tokenizer.tokens(found.ids), found.score, finish)


def _checked(stop: Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in strings:
        raise RegardError("a stop string is empty: expected at least one character")
    return strings


def _with_alternatives(found: list[Generation]) -> Generation:
    first = found[0]
    return Generation(first.text, first.ids, first.tokens, first.score, first.finish, found[1:])


@dataclass
class _Output:
    """A sample that is followed step by step."""

    growing: GrowingText
    text: str = ""
    ids: list[int] = field(default_factory=list)
    score: float = 0.0
    finish: Finish | None = None


class _Outputs:
    """Follows the samples of inputs step by step, and ends them at their stop strings."""

    def __init__(self, generator: Generator, inputs: Sequence[Input], stop: Sequence[str], n: int) -> None:
        self.generator, self.inputs = generator, inputs
        tokenizer = generator.tokenizer
        self.of = {one.number: [_Output(GrowingText(tokenizer, one.prompt, stop)) for _ in range(n)] for one in inputs}
        self.over: set[int] = set()  # inputs without a sample that goes on
        self.stopped: set[int] = set()  # those of them that the engine would decode further

    def pieces(self, model: Any, sampling: Sampling, batch_tokens: int) -> Iterator[str]:
        """Decode; gives the pieces of text of all samples, in the order in which they are produced."""
        settings = self.generator._engine.settings
        found = steps(model, self.inputs, settings, sampling, batch_tokens=batch_tokens, stopped=lambda: self.stopped)
        for step in found:
            rows = zip(step.sentences, step.tokens.tolist(), step.scores.tolist(), step.done.tolist(), strict=True)
            for number, tokens, scores, done in rows:
                if number in self.over:
                    continue
                for output, token, score in zip(self.of[number], tokens, scores, strict=True):
                    if output.finish is None and (piece := self._follow(output, token, score, done)):
                        yield piece
                if done:
                    self.over.add(number)
                elif all(output.finish for output in self.of[number]):
                    self.over.add(number)
                    self.stopped.add(number)

    def _follow(self, output: _Output, token: int, score: float, done: bool) -> str:
        """The text that a token adds; ``done``: it is the sentence's last."""
        output.score = score
        piece = ""
        if token in self.generator.settings.ends:
            output.finish = "end"
        else:
            output.ids.append(token)
            piece = output.growing.add(token)
            if not output.growing.stopped and done:
                output.finish = "limit"
        if output.finish is not None:
            piece += output.growing.end()
        if output.growing.stopped:
            output.finish = "stop"
        output.text += piece
        return piece

    def result(self, number: int) -> Generation:
        """The continuations of an input, when all have been decoded."""
        tokens = self.generator.tokenizer.tokens
        return _with_alternatives(
            [
                Generation(one.text, one.ids, tokens(one.ids), one.score, one.finish or "limit")
                for one in self.of[number]
            ]
        )
