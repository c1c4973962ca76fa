"""Holding out validation pairs: how many, and never a pair whose like stays in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from by_task import PAIRS, columns_of
from regard.config import Config, DataConfig
from regard.data.holdout import Survey, _choose, languages_of, survey
from regard.errors import RegardError


def write(folder: Path, pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], DataConfig]:
    for language, side in (("zh", 0), ("en", 1)):
        (folder / f"all.{language}").write_text("".join(pair[side] + "\n" for pair in pairs), "utf-8")
    entry = (f"{folder}/all.zh", f"{folder}/all.en")
    return entry, DataConfig(train=(entry,), valid=entry, source="zh", target="en")


def test_one_per_cent_and_at_most_a_thousand(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [(f"s{i}", f"t{i}") for i in range(500)])
    seen = survey(entry, data, PAIRS)
    assert len(seen.hold_out().held_out) == 5
    assert len(seen.hold_out(share=0.5, most=20).held_out) == 20
    assert seen.hold_out().held_out == survey(entry, data, PAIRS).hold_out().held_out, "the same pairs each time"


def test_pairs_with_a_side_in_common_stay_together(tmp_path: Path) -> None:
    pairs = [(f"s{i}", f"t{i % 40}") for i in range(80)] + [(f"s{i}", f"u{i}") for i in range(80)]
    entry, data = write(tmp_path, pairs)
    split = survey(entry, data, PAIRS).hold_out(share=0.25)
    split.write(tmp_path / "corpus")
    assert split.train + len(split.held_out) == 160
    for language in ("zh", "en"):
        train, valid = ((tmp_path / "corpus" / f"{n}.{language}").read_text().splitlines() for n in ("train", "valid"))
        assert len(train) == split.train and valid and not set(train) & set(valid)


def test_empty_sides_are_never_held_out(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [("", "x"), ("y", " ")] * 20 + [(f"s{i}", f"t{i}") for i in range(60)])
    assert min(survey(entry, data, PAIRS).hold_out(share=0.3).held_out) >= 40


def test_one_sentence_for_all_is_refused(tmp_path: Path) -> None:
    entry, data = write(tmp_path, [(f"s{i}", "same") for i in range(50)])
    with pytest.raises(RegardError, match="--valid"):
        survey(entry, data, PAIRS).hold_out()


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
    split = survey(str(corpus), data, PAIRS).hold_out(share=0.1)
    split.write(tmp_path / "corpus")
    zh, en = ((tmp_path / "corpus" / f"train.{side}").read_text("utf-8").split("\n")[:-1] for side in ("zh", "en"))
    assert [line.split()[0][1:] for line in zh] == [line[1:] for line in en]


def labelled(path: Path, rows: list[tuple[str, str]]) -> Survey:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), "utf-8")
    config = Config(task="classification", data=DataConfig(train=(str(path),), valid=str(path)))
    return survey(str(path), config.data, columns_of(config))


def test_a_tenth_of_each_label_is_held_out(tmp_path: Path) -> None:
    rows = [(f"text {number}\nand\tmore", "pos" if number % 4 else "neg") for number in range(400)]
    split = labelled(tmp_path / "a.jsonl", [*rows, ("alone", "rare"), ("", "pos")]).hold_out()
    assert split.described() == "362 texts to train on, 40 held out"
    split.write(tmp_path / "corpus")
    train, valid = (
        [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]
        for name in split.places(tmp_path / "corpus")
    )
    assert Counter(item["label"] for item in valid) == {"pos": 30, "neg": 10}
    assert {"text": "alone", "label": "rare"} in train, "a label is never held out whole"
    assert not {item["text"] for item in train} & {item["text"] for item in valid}
    assert split.held_out == labelled(tmp_path / "a.jsonl", [*rows, ("alone", "rare"), ("", "pos")]).hold_out().held_out


def test_equal_texts_stay_together_and_at_most_a_thousand_are_held_out(tmp_path: Path) -> None:
    many = labelled(tmp_path / "a.jsonl", [(str(number), str(number % 2)) for number in range(12_000)]).hold_out()
    assert len(many.held_out) == 1000
    twice = labelled(tmp_path / "b.jsonl", [(str(number // 2), str(number % 2)) for number in range(100)]).hold_out()
    assert len(twice.held_out) == 10 and {index // 2 * 2 for index in twice.held_out} <= twice.held_out
    with pytest.raises(RegardError, match="no text of 2 can be held out"):
        labelled(tmp_path / "c.jsonl", [("a", "x"), ("b", "y")]).hold_out()


@given(st.lists(st.tuples(st.integers(-1, 9), st.sampled_from("abc")), min_size=1, max_size=60), st.integers(1, 10))
def test_no_label_loses_all_its_examples(examples: list[tuple[int, str]], wanted: int) -> None:
    groups, labels = [group for group, _ in examples], [label for _, label in examples]
    chosen = _choose(groups, wanted, labels)
    left = {index for index, group in enumerate(groups) if group >= 0} - chosen
    assert {labels[index] for index in chosen} <= {labels[index] for index in left}
    assert len(chosen) <= wanted and not {groups[index] for index in chosen} & {groups[index] for index in left}
