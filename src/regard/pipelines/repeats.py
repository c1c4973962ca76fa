"""Outputs that repeat themselves or do not end: they are decoded again, without a repeated n-gram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from regard.decoding.nbest import Decode
from regard.decoding.repetition import find_repetition
from regard.decoding.running_batch import Hypothesis
from regard.decoding.search import Search
from regard.decoding.waiting import Input
from regard.text.parts import Warn
from regard.text.tokenizer import Tokenizer

NO_REPEAT = 3  # no three tokens twice, where an output is decoded again


def decode_again(
    inputs: Sequence[Input],
    hypotheses: list[list[Hypothesis]],
    search: Search,
    decode: Decode,
    tokenizer: Tokenizer,
    warn: Warn | None,
) -> list[Search]:
    """Replaces the ``hypotheses`` of inputs whose best output has a fault; the search by which each was found.

    ``warn`` is called with the number of such an input, from 0, and its fault.
    """
    searches = [search] * len(inputs)
    bounded = search.max_tokens is not None  # the caller has chosen where an output ends

    def fault(i: int, best: Hypothesis) -> str:
        return fault_of(inputs[i], best, tokenizer, bounded)

    faults = {i: why for i, one in enumerate(inputs) if one.source and (why := fault(i, hypotheses[i][0]))}
    if not faults:
        return searches
    strict = replace(search, no_repeat_ngram=search.no_repeat_ngram or NO_REPEAT)
    for i, better in zip(faults, decode([inputs[i] for i in faults], strict), strict=True):
        still = fault(i, better[0])
        hypotheses[i], searches[i] = better, strict
        if warn:
            after = f", and {still} then too" if still else ""
            warn(i, f"{faults[i]}; decoded again without repeats{after}")
    return searches


def fault_of(given: Input, hypothesis: Hypothesis, tokenizer: Tokenizer, bounded: bool = False) -> str:
    """The fault of an output, which repeats itself or does not end (unless it is ``bounded``); "" without one.

    A source that repeats itself may have such a translation, and repeated digits or signs ("1,000,000,000", "-----")
    are no fault: only repeated words are.
    """
    phrase = find_repetition(hypothesis.ids[len(given.prompt) :])
    text = tokenizer.decode(phrase).strip() if phrase else ""
    if any(letter.isalpha() for letter in text) and not find_repetition(given.source or (), repeats=3):
        return f"gave an output that repeats {text[:40]!r}"
    return "gave an output that does not end" if hypothesis.at_limit and not bounded else ""
