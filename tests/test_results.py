"""The evidence of every figure: scored again from the stored hypotheses, and the tables made from it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import tables  # noqa: E402

FOUND = sorted(path.parent.name for path in (ROOT / "results").glob("*/evidence.json"))
SCORED = [
    (name, row["file"]) for name in FOUND for row in tables.evidence(name).get("hypotheses", [])
]  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_evidence_says_how_to_get_it_again(name: str) -> None:
    found = tables.evidence(name)
    assert {"command", "commit", "seeds", "machine", "versions"} <= found.keys()
    assert found["command"] and found["machine"]["cpu"]
    for row in found.get("hypotheses", []):
        assert (ROOT / "results" / name / row["file"]).is_file()


@pytest.mark.parametrize("name, file", SCORED)
def test_hypotheses_score_what_is_said(name: str, file: str, corpus: Callable[[str], Path]) -> None:
    from regard.evaluation import corpus_scores, published_bleu

    row: dict[str, Any] = next(row for row in tables.evidence(name)["hypotheses"] if row["file"] == file)
    folder, reference = row["reference"].split("/", 1)
    references = (corpus(folder) / reference).read_text("utf-8").split("\n")[:-1]
    outputs = (ROOT / "results" / name / file).read_text("utf-8").split("\n")[:-1]
    scores = corpus_scores(outputs, references, row["target"])
    assert (round(scores.bleu, 2), round(scores.chrf, 2)) == (row["bleu"], row["chrf"])
    if "published_bleu" in row:
        assert round(published_bleu(outputs, references, row["target"]).score, 2) == row["published_bleu"]


def test_tables_are_made_from_the_results() -> None:
    stale = [
        path.name for path in tables.documents() if tables.filled(path.read_text("utf-8")) != path.read_text("utf-8")
    ]
    assert not stale, f"python benchmarks/tables.py makes them anew: {stale}"


def test_a_table_shows_mean_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"file": f"{n}", "reference": "m/test.de", "target": "de", "bleu": 38.0 + n, "chrf": 60.0} for n in (0, 1)]
    found = {"command": "regard x", "commit": "0" * 40, "machine": {"cpu": "C", "threads": 2}, "hypotheses": rows}
    found["figures"] = {"ratio": 5.2}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "evidence.json").write_text(json.dumps(found))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.filled("<!-- results:a -->\nold\n<!-- /results --> <!-- figure:a figures.ratio -->1<!-- /figure -->")
    assert "| m/test.de | 38.50 (38.00, 39.00) | 60.00 (60.00, 60.00) |" in text
    assert "old" not in text and "-->5.2<!--" in text
    assert tables.filled(text) == text
