"""Holding out validation pairs: how many, and never a pair whose like stays in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.config import DataConfig
from regard.data.holdout import _choose, languages_of, survey
from regard.errors import RegardError


def write(folder: Path, pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], DataConfig]:
    for language, side in (("zh", 0), ("en", 1)):
        (folder / f"all.{language}").write_text("".join(pair[side] + "\n" for pair in pairs), "utf-8")
    entry = (f"{folder}/all.zh", f"{folder}/all.en")
    return entry, DataConfig(train=(entry,), valid=entry, source="zh", target="en")


def test_one_per_cent_and_at_most_a_thousand(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [(f"s{i}", f"t{i}") for i in range(500)])
    seen = survey(entry, data)
    assert len(seen.hold_out().held_out) == 5
    assert len(seen.hold_out(share=0.5, most=20).held_out) == 20
    assert seen.hold_out().held_out == survey(entry, data).hold_out().held_out, "the same pairs each time"


def test_pairs_with_a_side_in_common_stay_together(tmp_path: Path) -> None:
    pairs = [(f"s{i}", f"t{i % 40}") for i in range(80)] + [(f"s{i}", f"u{i}") for i in range(80)]
    entry, data = write(tmp_path, pairs)
    split = survey(entry, data).hold_out(share=0.25)
    split.write(tmp_path / "corpus")
    assert split.train + len(split.held_out) == 160
    for language in ("zh", "en"):
        train, valid = ((tmp_path / "corpus" / f"{n}.{language}").read_text().splitlines() for n in ("train", "valid"))
        assert len(train) == split.train and valid and not set(train) & set(valid)


def test_empty_sides_are_never_held_out(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [("", "x"), ("y", " ")] * 20 + [(f"s{i}", f"t{i}") for i in range(60)])
    assert min(survey(entry, data).hold_out(share=0.3).held_out) >= 40


def test_one_sentence_for_all_is_refused(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [(f"s{i}", "same") for i in range(50)])
    with pytest.raises(RegardError, match="--valid"):
        survey(entry, data).hold_out()


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=60), st.integers(1, 10))
def test_no_group_is_divided(groups: list[int], wanted: int) -> None:
    chosen = _choose(groups, wanted)
    assert not {groups[i] for i in chosen} & {group for i, group in enumerate(groups) if i not in chosen}
    assert len(chosen) <= max(wanted, len(groups) // 10)


def test_languages_of_file_names() -> None:
    names = ("a/train.zh", "b.c/train.en.gz", "x.de.zst", "plain", "a,b.zh ", "x.en.bz2")
    assert list(languages_of(names)) == ["zh", "en", "de", "", "zh", "en"]


def test_a_line_feed_inside_a_text_moves_no_other_line(tmp_path: Path) -> None:
    rows = [{"zh": f"s{i}\nand more" if i == 3 else f"s{i}", "en": f"t{i}"} for i in range(50)]
    corpus = tmp_path / "all.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = DataConfig(train=(str(corpus),), valid=str(corpus), source="zh", target="en")
    split = survey(str(corpus), data).hold_out(share=0.1)
    split.write(tmp_path / "corpus")
    zh, en = ((tmp_path / "corpus" / f"train.{side}").read_text("utf-8").split("\n")[:-1] for side in ("zh", "en"))
    assert [line.split()[0][1:] for line in zh] == [line[1:] for line in en]
