"""Make the tables of README and docs from results/: python benchmarks/tables.py [--check]

Between `<!-- results:NAME -->` and `<!-- /results -->` stands the table of results/NAME/; with several names,
`<!-- results:A,B,C -->`, one row for each. A single figure in a sentence stands between `<!-- figure:NAME KEY -->` and
`<!-- /figure -->`, KEY being a path in evidence.json such as `figures.ratio`, or `bleu:REFERENCE`, the mean over
seeds. Nothing between markers is written by hand; --check (the tests) fails where it was.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
TABLE = re.compile(r"(<!-- results:([\w.,-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- figure:([\w.-]+) (\S+) -->).*?(<!-- /figure -->)", re.DOTALL)
HEADINGS = {"bleu": "BLEU", "chrf": "chrF", "published_bleu": "BLEU, published protocol"}


def evidence(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name / "evidence.json").read_text("utf-8"))
    return found


def documents() -> Iterator[Path]:
    yield from sorted(ROOT.glob("README*.md"))
    yield from sorted((ROOT / "docs").glob("**/*.md"))


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; numbers stand to the right."""
    right = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(columns))]
    lines = [columns, ["---:" if at_right else "---" for at_right in right]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", r"\|") for cell in row] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def by_reference(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The scored files of a result, by test set: one file a seed."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in found.get("hypotheses", []):
        sets.setdefault(row["reference"], []).append(row)
    return sets


def mean(rows: list[dict[str, Any]], metric: str) -> str:
    """The mean over seeds, the single values behind it: "38.42 (38.31, 38.53)"."""
    values = [row[metric] for row in rows]
    text = f"{statistics.mean(values):.2f}"
    return text + (f" ({', '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else "")


def table(names: list[str]) -> str:
    """The table of one result, or one row for each of several."""
    if len(names) > 1:
        return _side_by_side(names)
    found = evidence(names[0])
    parts = []
    if "hypotheses" in found:
        metrics = [metric for metric in HEADINGS if all(metric in row for row in found["hypotheses"])]
        rows = [
            [reference, *(mean(scored, metric) for metric in metrics)]
            for reference, scored in by_reference(found).items()
        ]
        parts.append(markdown(["test set", *(HEADINGS[metric] for metric in metrics)], rows))
    if "table" in found:
        parts.append(markdown(found["table"]["columns"], found["table"]["rows"]))
    return "\n".join(parts) + "\n" + source(names[0], found)


def _side_by_side(names: list[str]) -> str:
    every = {name: by_reference(evidence(name)) for name in names}
    references = list(dict.fromkeys(reference for sets in every.values() for reference in sets))
    rows: list[list[Any]] = [
        [evidence(name).get("note") or name]
        + [mean(sets[reference], "bleu") if reference in sets else "" for reference in references]
        for name, sets in every.items()
    ]
    lines = "".join(source(name, evidence(name)) for name in names)
    return markdown(["", *(f"BLEU {reference}" for reference in references)], rows) + "\n" + lines


def source(name: str, found: dict[str, Any]) -> str:
    """Where a table comes from, in one line under it."""
    where = found["machine"]
    hardware = where.get("gpu") or f"{where['cpu']}, {where['threads']} threads"
    return f"<sub>`{found['command']}` · [results/{name}](/results/{name}) · {hardware} · {found['commit'][:9]}</sub>\n"


def figure(name: str, key: str) -> str:
    found: Any = evidence(name)
    metric, _, reference = key.partition(":")
    if reference:
        return f"{statistics.mean(row[metric] for row in by_reference(found)[reference]):.2f}"
    for step in key.split("."):
        found = found[step]
    return f"{found:,}" if isinstance(found, int) else str(found)


def filled(text: str) -> str:
    """A document's text with every table and figure made anew."""
    text = TABLE.sub(lambda match: match[1] + table(match[2].split(",")) + match[3], text)
    return FIGURE.sub(lambda match: match[1] + figure(match[2], match[3]) + match[4], text)


def main() -> None:
    stale = []
    for path in documents():
        text = path.read_text("utf-8")
        if (new := filled(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new, "utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"not as results/ says: {', '.join(stale)} (python benchmarks/tables.py makes them anew)")
    print("\n".join(stale) or "all tables are as results/ says")


if __name__ == "__main__":
    main()
