"""Multi30k en-de for the speed comparisons: cut into subwords once, by regard's tokenizer, for every contender.

So all see the same tokens and count the same ones. JoeyNMT gets the pieces as words between spaces, which also spares
it the cutting while it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evidence import data_folder, lines_of
from numpy.typing import NDArray

SOURCE, TARGET = "en", "de"
VOCABULARY = 8000
Rows = Sequence[Sequence[int] | NDArray[np.int64]]


def raw(split: str) -> tuple[list[str], list[str]]:
    """The lines of both sides of train, val or a test set."""
    folder = data_folder() / "multi30k"
    if not folder.is_dir():
        raise SystemExit(f"{folder}: Multi30k is not there; set REGARD_DATA to the folder that holds multi30k/")
    return tuple(lines_of(folder / f"{split}.{side}") for side in (SOURCE, TARGET))  # type: ignore[return-value]


def prepare(folder: Path) -> None:
    """Write tokenizer.json, ids (train.npz, val.npz), pieces (train.en, …) and vocabulary.txt, once."""
    if (folder / "done").exists():
        return
    from regard.text.tokenizer import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    source, target = raw("train")
    tokenizer = Tokenizer.train([*source, *target], "bpe", VOCABULARY)
    tokenizer.write(folder / "tokenizer.json")
    (folder / "vocabulary.txt").write_text(
        "".join(f"{piece}\n" for piece in tokenizer.tokens(range(4, tokenizer.size))), "utf-8"
    )
    for split in ("train", "val"):
        sides = [tokenizer.encode_batch(lines) for lines in raw(split)]
        for side, rows in zip((SOURCE, TARGET), sides, strict=True):
            pieces = (" ".join(tokenizer.tokens(row)) for row in rows)
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in pieces), "utf-8")
        write_ids(folder, split, sides[0], sides[1])
    (folder / "done").touch()


def write_ids(folder: Path, split: str, source: Rows, target: Rows) -> None:
    """Write the file that ``ids`` reads."""
    sides = {}
    for side, rows in ((SOURCE, source), (TARGET, target)):
        sides[f"{side}_ids"] = np.concatenate(rows).astype(np.int32)
        sides[f"{side}_lengths"] = np.array([len(row) for row in rows], dtype=np.int32)
    np.savez(folder / f"{split}.npz", **sides)


def ids(folder: Path, split: str) -> tuple[list[list[int]], list[list[int]]]:
    """The subwords of both sides, without special tokens."""
    with np.load(folder / f"{split}.npz") as stored:
        sides = []
        for side in (SOURCE, TARGET):
            ends = np.cumsum(stored[f"{side}_lengths"])[:-1]
            sides.append([row.tolist() for row in np.split(stored[f"{side}_ids"], ends)])
    return sides[0], sides[1]
