"""``regard evaluate``, ``score``, ``average`` and ``params`` on the toy language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sacrebleu

from .conftest import Regard, refused

SETS = ("--source", "test.zh", "--reference", "test.en")


def test_evaluate_is_sacrebleu_of_what_translate_writes(
    workshop: Path, model: Path, regard: Regard, tmp_path: Path
) -> None:
    output = tmp_path / "out.en"
    done = regard("evaluate", model, *SETS, "--output", output, "--json", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert regard("translate", model, workshop / "test.zh").stdout == output.read_bytes()
    references = (workshop / "test.en").read_text("utf-8").splitlines()
    score = sacrebleu.corpus_bleu(output.read_text("utf-8").splitlines(), [references])
    assert report["bleu"] == pytest.approx(score.score) and report["bleu"] > 50
    assert "tok:13a" in report["bleu_signature"] and report["perplexity"] > 1 and report["sentences"] == 60


def test_evaluate_for_people(workshop: Path, model: Path, regard: Regard) -> None:
    done = regard("evaluate", model, *SETS, "--worst", "2", "--by-length", "--compare", "test.en", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    for wanted in ("BLEU ", "chrF ", "nrefs:1|case:mixed", "perplexity", "words of the reference", "95 %", "line "):
        assert wanted in text, text


def test_compare_with_another_model(workshop: Path, model: Path, regard: Regard) -> None:
    done = regard("evaluate", model, *SETS, "--compare", model, "--json", cwd=workshop)
    comparison = json.loads(done.stdout)["compare"]
    assert comparison["a"] == comparison["b"] and comparison["p"] == 1.0


def test_test_files_that_do_not_belong_together(workshop: Path, model: Path, regard: Regard) -> None:
    message = refused(regard("evaluate", model, "--source", "test.zh", "--reference", "valid.en", cwd=workshop))
    assert "test.zh has 60 lines and valid.en has 40" in message
    message = refused(regard("evaluate", model, *SETS, "--compare", "valid.en", cwd=workshop))
    assert "valid.en has 40 lines" in message
    (workshop / "empty.en").write_text("")
    assert "no lines" in refused(regard("score", model, "--source", "test.zh", "--target", "empty.en", cwd=workshop))


def test_score_agrees_with_the_beam(workshop: Path, model: Path, regard: Regard, tmp_path: Path) -> None:
    """Where the text is cut into the same subwords again, the forced score is the score that the search gave."""
    lines = [
        json.loads(line) for line in regard("translate", model, workshop / "test.zh", "--json").stdout.splitlines()
    ]
    (tmp_path / "out.en").write_text("".join(line["text"] + "\n" for line in lines), "utf-8")
    done = regard("score", model, "--source", workshop / "test.zh", "--target", tmp_path / "out.en", "--json")
    assert done.returncode == 0 and b"perplexity" in done.stderr
    forced = [json.loads(line) for line in done.stdout.splitlines()]
    same = [(a, b) for a, b in zip(lines, forced, strict=True) if a["tokens"] == b["tokens"]]
    assert len(same) > 40
    for a, b in same:
        assert a["score"] == pytest.approx(b["score"], abs=1e-3)
        assert len(b["token_scores"]) == len(b["tokens"]) + 1


def test_score_for_people(workshop: Path, model: Path, regard: Regard) -> None:
    plain = regard("score", model, "--source", "test.zh", "--target", "test.en", cwd=workshop).stdout.decode()
    rows = regard(
        "score", model, "--source", "test.zh", "--target", "test.en", "--tokens", cwd=workshop
    ).stdout.decode()
    assert len(plain.splitlines()) == 60
    for line, row in zip(plain.splitlines(), rows.splitlines(), strict=True):
        total, *tokens = row.split("\t")
        assert total == line and tokens[-1].startswith("</s> ")


def test_average_writes_a_model(workshop: Path, model: Path, regard: Regard, tmp_path: Path) -> None:
    out = tmp_path / "averaged"
    done = regard("average", model, out, "--last", "2", "--json", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["steps"] == [120, 240]
    assert regard("translate", out, input="一二\n".encode()).returncode == 0
    assert "there already" in refused(regard("average", model, out, "--last", "2", cwd=workshop))
    assert "of the last 9" in refused(regard("average", model, tmp_path / "more", "--last", "9", cwd=workshop))
    assert "is no run" in refused(regard("average", out, tmp_path / "more", cwd=workshop))


def test_params_counts_a_tied_table_once(model: Path, regard: Regard) -> None:
    report = json.loads(regard("params", model, "--json").stdout)
    assert report["parameters"] == sum(part["parameters"] for part in report["parts"])
    text = regard("params", model).stdout.decode()
    assert text.splitlines()[-1].split()[-1] == f"{report['parameters']:,}"
    assert text.count("table.weight") == 1


@pytest.mark.parametrize(("preset", "count"), [("base", 63_082_496), ("big", 214_245_376)])
def test_params_of_the_papers_models(regard: Regard, preset: str, count: int) -> None:
    assert json.loads(regard("params", preset, "--vocabulary", "37000", "--json").stdout)["parameters"] == count


def test_params_of_a_configuration_and_errors(workshop: Path, regard: Regard) -> None:
    assert json.loads(regard("params", "tiny.toml", "--json", cwd=workshop).stdout)["parameters"] > 0
    assert "--vocabulary" in refused(regard("params", "base", cwd=workshop))
    assert "no such directory" in refused(regard("params", "bass", "--vocabulary", "100", cwd=workshop))


def test_a_reference_without_text_is_nothing_to_score(workshop: Path, regard: Regard, tmp_path: Path) -> None:
    count = (workshop / "test.en").read_text("utf-8").count("\n")
    (tmp_path / "blank").write_text(" \n" * count, "utf-8")
    named = ("--source", workshop / "test.zh", "--reference", workshop / "test.en", "--reference", tmp_path / "blank")
    assert "nothing to score" in refused(regard("evaluate", "nosuch", *named, cwd=tmp_path))
