"""The text of an output that grows token by token, and where it stops.

A token need not be whole characters: tokens of bytes make a character together. And white space or the marks of words
depend on the token before. So the text of new tokens is what they add to the text of the tokens before them, and text
that ends in the midst of a character is held back.
"""

from __future__ import annotations

from collections.abc import Sequence

from regard.text.tokenizer import Tokenizer

UNKNOWN = "\ufffd"  # what bytes that are no character, or not yet one, are decoded as
CONTEXT = 8  # tokens of the prompt before the output, which say if a space is left out


class GrowingText:
    """Gives the text of an output in pieces, without what follows the first of the ``stop`` strings."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.stopped = False  # a stop string has been produced
        self._ids = list(prompt[-CONTEXT:])
        # The ids whose text was given last, from `first` to `read`: the text of further ids is what they add to it.
        self._first, self._read = 0, len(self._ids)
        self._held = ""  # the beginning of a stop string, perhaps

    def add(self, token: int) -> str:
        """The text that is certain with a further token; "" where it must be held back."""
        self._ids.append(token)
        piece = self._new()
        if piece.endswith(UNKNOWN) or not piece:
            return ""
        self._ids = self._ids[self._read :]
        self._first, self._read = 0, len(self._ids)
        return self._certain(piece)

    def end(self) -> str:
        """The text that was held back, when no token follows."""
        piece = "" if self.stopped else self._certain(self._new())
        held, self._held = self._held, ""
        return piece + ("" if self.stopped else held)

    def _new(self) -> str:
        before = self.tokenizer.decode(self._ids[self._first : self._read])
        return self.tokenizer.decode(self._ids[self._first :])[len(before) :]

    def _certain(self, piece: str) -> str:
        """What can be given of the text that was held and the piece after it."""
        text = self._held + piece
        at = first_of(text, self.stop)
        if at is not None:
            self.stopped, self._held = True, ""
            return text[:at]
        most = min(len(text), max(map(len, self.stop), default=1) - 1)
        begun = next((n for n in range(most, 0, -1) if any(one.startswith(text[-n:]) for one in self.stop)), 0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]


def first_of(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string of a text begins; None without one."""
    return min((at for one in stop if (at := text.find(one)) >= 0), default=None)


def text_after(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The text of an output ``ids`` after a prompt, up to the first stop string: what ``GrowingText`` gives in all."""
    growing = GrowingText(tokenizer, prompt, stop)
    pieces = []
    for token in ids:
        pieces.append(growing.add(token))
        if growing.stopped:
            return "".join(pieces)
    return "".join(pieces) + growing.end()
