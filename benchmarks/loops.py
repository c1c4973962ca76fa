"""How many outputs repeat, before and after they are decoded again: python benchmarks/loops.py [--model zh-en]

The sources of Tatoeba's test set are translated with beam 5; no reference is read. results/loops/ keeps the lines.
"""

from __future__ import annotations

import argparse

import evidence

import regard

SOURCE = "tatoeba-zh-en/test.zh"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zh-en")
    given = parser.parse_args()
    sources = evidence.lines_of(evidence.data_folder() / SOURCE)
    named: list[tuple[int, str]] = []
    translator = regard.load(given.model)
    before = translator.translate(sources, no_repeat=False)
    after = translator.translate(sources, warn=lambda line, why: named.append((line, why)))
    again = [(line, why) for line, why in named if "decoded again" in why]
    still = [line for line, why in again if "then too" in why]
    rows = [[line + 1, sources[line], before[line].text[:80], after[line].text[:80]] for line, _ in again]
    evidence.write(
        "loops",
        command=f"python benchmarks/loops.py --model {given.model}",
        figures={"lines": len(sources), "loops_before": len(again), "loops_after": len(still)},
        table={"columns": ["line", "source", "first output (80 characters)", "decoded again"], "rows": rows},
        note="An output repeats itself when the same words stand four times in a row, or when it does not end.",
    )
    print(f"{len(again)} of {len(sources)} outputs repeat themselves, {len(still)} after they were decoded again")


if __name__ == "__main__":
    main()
