"""Holds out the end of a text for validation: the first 90 % of its characters train, as in nanoGPT's examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from regard.data.checks import has_text
from regard.data.reading import read_pieces, without_nul
from regard.errors import RegardError
from regard.files import write_folder

TRAINS = 0.9  # the share of the characters before the cut


@dataclass(frozen=True)
class TextSplit:
    """A text file and the number of its characters that train; the cut is the line end nearest to nine tenths."""

    path: str
    characters: int
    train: int

    @property
    def files(self) -> list[str]:
        return [self.path]

    def described(self) -> str:
        return f"{self.train:,} characters to train on, the last {self.characters - self.train:,} held out"

    def places(self, folder: Path) -> tuple[str, str]:
        return str(folder / "train.txt"), str(folder / "valid.txt")

    def write(self, folder: Path) -> None:
        """Write ``train.txt`` and ``valid.txt``, which one after the other are the text."""
        write_folder(folder, self._fill, name="holdout")

    def _fill(self, inside: Path) -> None:
        begun = 0
        with (
            open(inside / "train.txt", "w", encoding="utf-8", newline="") as train,
            open(inside / "valid.txt", "w", encoding="utf-8", newline="") as valid,
        ):
            for text, _ in read_pieces(self.path):
                here = max(0, min(len(text), self.train - begun))
                train.write(text[:here])
                valid.write(text[here:])
                begun += len(text)


@dataclass(frozen=True)
class TextSurvey:
    """The characters of a plain text file."""

    path: str
    characters: Counter[str]

    @property
    def size(self) -> int:
        """The number of characters."""
        return self.characters.total()

    def hold_out(self) -> TextSplit:
        """Hold out the last tenth; an error if either part has no text, or one character."""
        total = self.characters.total()
        wanted = int(total * TRAINS)
        cut, begun, texts = wanted, 0, [False, False]
        nearest = total
        for text, _ in read_pieces(self.path):
            begun += len(text)
            if text.endswith("\n") and begun < total and abs(begun - wanted) < nearest:
                cut, nearest = begun, abs(begun - wanted)
        begun = 0
        for text, _ in read_pieces(self.path):
            here = max(0, min(len(text), cut - begun))
            texts = [had or has_text(part) for had, part in zip(texts, (text[:here], text[here:]), strict=True)]
            begun += len(text)
        if not all(texts) or min(cut, total - cut) < 2:  # in a part of one character nothing is predicted
            unit = "character" if total == 1 else "characters"
            raise RegardError(
                f"{self.path}: {total:,} {unit}: too few to train on and to hold out a tenth for validation; name a "
                "validation text with --valid"
            )
        return TextSplit(self.path, total, cut)


def survey_text(path: str) -> TextSurvey:
    """Read a text file and count its characters."""
    characters: Counter[str] = Counter()
    for text, line in read_pieces(path):
        characters.update(without_nul(text, f"{path}:{line}"))
    if not any(has_text(character) for character in characters):
        raise RegardError(f"{path}: has no text to train on")
    return TextSurvey(path, characters)
