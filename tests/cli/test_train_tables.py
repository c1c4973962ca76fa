"""``regard train`` with tables and JSON lines: one file is enough, and what would be learnt wrongly is said first."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import TINY, Regard, pairs, refused

SMALL = ("--steps", "2", "--validate-every", "2", "--save-every", "2", "--set", "model.width=16", "--threads", "1")
SMALL += ("--set", "model.heads=2", "--set", "model.feedforward=16", "--vocabulary", "330", "--batch-tokens", "512")
ROWS = pairs(120, seed=7)


def written(path: Path, header: str = "") -> None:
    lines = ([header] if header else []) + ["\t".join(row) for row in ROWS]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def test_one_table_is_enough_and_its_names_are_no_pair(regard: Regard, tmp_path: Path) -> None:
    written(tmp_path / "pairs.tsv", "Chinese\tEnglish")
    done = regard("train", "pairs.tsv", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stderr.decode()
    assert "pairs.tsv: the first line names the columns: source is 'Chinese', target is 'English'" in said
    assert "zh → en: 119 pairs to train on, 1 held out" in said and done.stdout == b"runs/zh-en\n"
    again = regard("train", "pairs.tsv", "--resume", "--steps", "4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr.decode()
    other = ("--print-config", "--source-language", "en")
    printed = regard("train", "pairs.tsv", *other, cwd=tmp_path).stdout.decode()
    assert 'source = "en"\ntarget = "zh"' in printed


def test_a_configuration_with_tables_says_their_names(regard: Regard, tmp_path: Path) -> None:
    written(tmp_path / "train.tsv", "target\tsource")
    items = [{"translation": {"en": target, "zh": source}} for source, target in ROWS[:20]]
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    text = TINY.replace('"train"', '"train.tsv"').replace('"valid"', '"valid.jsonl"')
    text = text.replace('source = "zh"\ntarget = "en"', 'source = "en"\ntarget = "zh"')
    (tmp_path / "tiny.toml").write_text(text, "utf-8")
    done = regard("train", "tiny.toml", "--steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert "train.tsv: the first line names the columns: source is 'source', target is 'target'" in done.stderr.decode()


def test_what_is_wrong_with_a_table_is_said_before_the_first_step(regard: Regard, tmp_path: Path) -> None:
    written(tmp_path / "pairs.tsv")
    message = refused(regard("train", "pairs.tsv", *SMALL, cwd=tmp_path))
    assert message.startswith("pairs.tsv: the columns name no languages; say --source-language and --target-language")
    with (tmp_path / "pairs.tsv").open("a", encoding="utf-8") as file:
        file.write("我無\t法入睡。\tI can't sleep.\n")
    languages = ("--source-language", "zh", "--target-language", "en")
    message = refused(regard("train", "pairs.tsv", *languages, *SMALL, cwd=tmp_path))
    assert message.startswith("pairs.tsv:121: 3 columns, and the first line has 2")
    assert not (tmp_path / "runs").exists()
