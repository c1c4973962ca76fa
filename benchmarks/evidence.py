"""Write the evidence of a figure: results/NAME/ with command, commit, seeds, machine, versions, hypotheses.

    python benchmarks/evidence.py multi30k-en-de --command "regard train recipes/multi30k-en-de.toml" \\
        --run runs/m1 --run runs/m2 --hypotheses out1.de=multi30k/test_2016_flickr.de --published

Scores are computed here, from the hypotheses and the references under REGARD_DATA, by the package's own scorer;
tests/test_results.py computes them again. The tables of README and docs are made from these folders by tables.py.
Speed scripts call `write` with the figures they measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "sacrebleu")


def data_folder() -> Path:
    """Where corpora that are not packaged stand."""
    return Path(os.environ.get("REGARD_DATA") or ROOT.parent / "shared" / "data").resolve()


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; only a line feed ends one."""
    return path.read_text("utf-8").split("\n")[:-1]


def machine() -> dict[str, Any]:
    """The kind of processor, cores, memory, and GPU if PyTorch has one."""
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            first = itertools.takewhile(str.strip, lines)
            said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
        # A cloud's name of a processor may be that of several generations.
        cpu = f"{said['model name']} (family {said['cpu family']}, model {said['model']})"
    except (OSError, KeyError):
        pass
    found = {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions(extra: Sequence[str] = ()) -> dict[str, str]:
    from regard import __version__

    found = {"regard": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in (*PACKAGES, *extra)}


def commit() -> str:
    """The commit that the figures were made with; "+" after it when tracked files outside results/ differed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def score(hypotheses: Path, reference: str, target: str, published: bool) -> dict[str, Any]:
    """BLEU and chrF of one file of hypotheses, with their signatures."""
    from regard.evaluation import corpus_scores, published_bleu

    outputs = lines_of(hypotheses)
    references = lines_of(data_folder() / reference)
    found = corpus_scores(outputs, references, target)
    row: dict[str, Any] = {
        "bleu": round(found.bleu, 2),
        "bleu_signature": found.bleu_signature,
        "chrf": round(found.chrf, 2),
        "chrf_signature": found.chrf_signature,
    }
    if published:
        papers = published_bleu(outputs, references, target)
        row |= {"published_bleu": round(papers.score, 2), "published_signature": papers.signature}
    return row


def write(
    name: str,
    *,
    command: str,
    seeds: Sequence[int] = (),
    runs: Sequence[Path] = (),
    hypotheses: Sequence[tuple[Path, str]] = (),
    published: bool = False,
    figures: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    packages: Sequence[str] = (),
    note: str = "",
) -> Path:
    """Write results/NAME/ anew; returns the folder.

    hypotheses: (file, reference relative to REGARD_DATA); the reference's ending is the target language.
    figures: whatever was measured. table: {"columns": [...], "rows": [[...], ...]}, what tables.py prints of it.
    """
    folder = RESULTS / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    found: dict[str, Any] = {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "seeds": list(seeds),
        "machine": machine(),
        "versions": versions(packages),
    }
    for number, run in enumerate(runs, start=1):
        with open(run / "run.toml", "rb") as file:
            found["seeds"].append(tomllib.load(file)["seed"])
        for kept in ("metrics.jsonl", "run.toml"):
            suffix = f"-{number}" if len(runs) > 1 else ""
            stem, ending = kept.split(".")
            text = (run / kept).read_text("utf-8")
            # Committed files name no one's folders.
            text = text.replace(str(data_folder()), "$REGARD_DATA").replace(f"{ROOT}/", "")
            (folder / f"{stem}{suffix}.{ending}").write_text(text, "utf-8")
    rows = []
    for file, reference in hypotheses:
        kept = f"{len(rows) + 1}-{Path(reference).name}"
        shutil.copyfile(file, folder / kept)
        target = reference.rsplit(".", 1)[-1]
        scores = score(folder / kept, reference, target, published)
        rows.append({"file": kept, "reference": reference, "target": target, **scores})
    found |= {"hypotheses": rows} if rows else {}
    found |= {"figures": figures} if figures else {}
    found |= {"table": table} if table else {}
    found |= {"note": note} if note else {}
    (folder / "evidence.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the folder under results/")
    parser.add_argument("--command", required=True, help="what someone else types to get the same")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run directory: its metrics are copied")
    parser.add_argument("--seed", type=int, action="append", default=[], help="a seed, where there is no run")
    parser.add_argument(
        "--hypotheses", action="append", default=[], metavar="FILE=REFERENCE",
        help="outputs, and their references relative to REGARD_DATA (the ending is the target language)",
    )  # fmt: skip
    parser.add_argument("--published", action="store_true", help="the lowercased, tokenized BLEU of papers too")
    parser.add_argument("--figure", action="append", default=[], metavar="NAME=VALUE", help="another figure (JSON)")
    parser.add_argument("--note", default="", help="a sentence for the reader of the table")
    given = parser.parse_args()
    pairs = [entry.rsplit("=", 1) for entry in given.hypotheses]
    folder = write(
        given.name,
        command=given.command,
        seeds=given.seed,
        runs=given.run,
        hypotheses=[(Path(file), reference) for file, reference in pairs],
        published=given.published,
        figures={key: json.loads(value) for key, value in (entry.split("=", 1) for entry in given.figure)},
        note=given.note,
    )
    print(folder.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
