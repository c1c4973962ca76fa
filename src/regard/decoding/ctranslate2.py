"""CTranslate2 as a backend for our Transformer: the same weights, written in its format and run by it.

CTranslate2 ranks by score / length^α and ends a sentence when as many hypotheses have finished as the beam is wide: our
``power`` penalty and ``first`` stopping.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from regard.accel.prepared import Prepared
from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.scheduler import Step
from regard.decoding.search import Search
from regard.decoding.waiting import Input
from regard.errors import RegardError
from regard.interop.ctranslate2 import library, write
from regard.models.contract import Model
from regard.text.marks import source_ids, target_start
from regard.text.settings import TextSettings

PRECISIONS = ("float32", "int8", "int16", "float16", "bfloat16", "int8_float16", "int8_bfloat16", "auto")


class CTranslate2:
    """A backend for a ``Translator``: the model is converted once into a temporary folder, then run."""

    def __init__(
        self,
        model: Model,
        settings: TextSettings,
        *,
        precision: str = "float32",
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        if precision not in PRECISIONS:
            raise RegardError(f"ctranslate2:{precision}: expected one of {', '.join(PRECISIONS)}")
        if isinstance(model, Prepared):
            raise RegardError(
                "CTranslate2 takes a model in fp32 and quantises it itself: give ctranslate2:int8, and no dtype"
            )
        package = library()
        self.settings = settings
        of_pytorch = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            write(model, settings, Path(folder) / "model")
            try:
                # One thread decodes one batch: dividing its small products among threads is slower.
                # A GPU takes one batch after another.
                self.translator: Any = package.Translator(
                    str(Path(folder) / "model"),
                    device=device,
                    compute_type=precision,
                    inter_threads=max(1, threads) if device == "cpu" else 1,
                    intra_threads=1,
                )
            except (ValueError, RuntimeError) as error:  # this machine lacks the precision or the device
                raise RegardError(f"CTranslate2 cannot run this model: {error}") from None
            finally:
                torch.set_num_threads(of_pytorch)  # CTranslate2 sets the threads of the OpenMP that both use

    def __call__(
        self,
        inputs: Sequence[Input],
        search: Search,
        batch_tokens: int,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Result]:
        """The results of all inputs, in their order. CTranslate2 tells no steps."""
        penalty = search.length_penalty
        if penalty.kind != "power" and search.beam > 1:
            raise RegardError(
                f"CTranslate2 ranks by score / length^α only: give power:{penalty.alpha:g} as length penalty"
            )
        if on_step is not None:
            raise RegardError("CTranslate2 tells no steps: use regard's own engine")
        # A call has one limit, which counts the prefix too; one that depends on the source is that of the longest.
        alike: dict[int, list[Input]] = {}
        for one in inputs:
            relative = one.max_tokens is None and search.max_tokens is None
            alike.setdefault(0 if relative else len(self._prefix(one)) + one.limit(search), []).append(one)
        results = [result for some in alike.values() for result in self._results(some, search, batch_tokens)]
        found = {result.index: result for result in results}
        return [found[one.number] for one in inputs]

    def _results(self, inputs: Sequence[Input], search: Search, batch_tokens: int) -> Iterator[Result]:
        settings = self.settings
        prefixes = [self._prefix(one) for one in inputs]
        found = self.translator.translate_batch(
            [_pieces(source_ids(settings, one.source or (), language=one.language)) for one in inputs],
            [_pieces(prefix) for prefix in prefixes] if any(prefixes) else None,
            beam_size=search.beam,
            num_hypotheses=search.n_best,
            length_penalty=search.length_penalty.alpha,
            no_repeat_ngram_size=search.no_repeat_ngram,
            suppress_sequences=[[str(token)] for token in settings.suppressed] or None,
            max_batch_size=max(1, batch_tokens // search.beam),
            batch_type="tokens",
            max_input_length=0,
            min_decoding_length=0,  # an output may be empty, as ours may
            max_decoding_length=max(
                len(prefix) + one.limit(search) for one, prefix in zip(inputs, prefixes, strict=True)
            ),
            return_scores=True,
            return_end_token=True,
        )
        for one, prefix, result in zip(inputs, prefixes, found, strict=True):
            pairs = zip(result.hypotheses, result.scores, strict=True)
            yield Result(one.number, [self._hypothesis(pieces, score, len(prefix), search) for pieces, score in pairs])

    def _prefix(self, one: Input) -> list[int]:
        """What stands before the output, but for the first mark, which CTranslate2 puts there itself."""
        return [*target_start(self.settings, one.language)[1:], *one.prompt]

    def _hypothesis(self, pieces: list[str], normalized: float, given: int, search: Search) -> Hypothesis:
        ids = [int(piece) for piece in pieces]
        # CTranslate2 counts the given tokens in the length, and does not score them.
        score = normalized * len(ids) ** search.length_penalty.alpha
        ids = ids[given:]
        normalized = search.length_penalty.apply(score, max(1, len(ids)))
        end = ids[-1] if ids and ids[-1] in self.settings.ends else None
        return Hypothesis(ids if end is None else ids[:-1], score, normalized, end is None, end)


def _pieces(ids: Sequence[int]) -> list[str]:
    return [str(token) for token in ids]
