"""How long clients of ``regard serve`` wait, by ``regard bench serve``: the packaged model on Tatoeba's dev.

    python benchmarks/serving.py

Each client asks for one sentence at a time over HTTP, on the cores that the server has too. Run it when nothing else
runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import evidence

SETTINGS = {"fp32, beam 5": ["--beam", "5"], "int8, greedy": ["--beam", "1", "--dtype", "int8"]}
CLIENTS = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long each number of clients asks")
    given = parser.parse_args()
    figures, rows = {}, []
    for name, options in SETTINGS.items():
        command = [sys.executable, "-m", "regard", "bench", "serve", "zh-en", "--seconds", str(given.seconds), "--json"]
        for count in CLIENTS:
            command += ["--clients", str(count)]
        found = json.loads(subprocess.run([*command, *options], capture_output=True, check=True).stdout)
        figures[name] = found
        rows.append(
            [name, "as a file", round(found["file_sentences_per_second"]), f"{found['file_share']:.1%}", "", ""]
        )
        for load in found["loads"]:
            wait = load["milliseconds"]
            rows.append(
                [
                    name, f"{load['clients']} clients" if load["clients"] > 1 else "1 client",
                    round(load["sentences_per_second"]), f"{load['share']:.1%}", f"{wait['median']:.0f}",
                    f"{wait['p99']:.0f}",
                ]
            )  # fmt: skip
    columns = ["", "", "sentences/s", "share of the matrix rate", "median wait, ms", "p99, ms"]
    evidence.write(
        "serving",
        command=f"python benchmarks/serving.py --seconds {given.seconds:g}",
        figures=figures,
        table={"columns": columns, "rows": rows},
        packages=["fastapi", "uvicorn"],
    )
    for row in rows:
        print(" · ".join(map(str, row)))


if __name__ == "__main__":
    main()
