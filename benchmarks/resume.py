"""Exact resume, counted: python benchmarks/resume.py

Runs tests/faults/test_resume.py, in which real trainings are killed by SIGKILL at named points and random moments and
everything is compared by SHA-256, and writes how many came out equal to results/resume/.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import evidence

TESTS = "tests/faults/test_resume.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["-m", "pytest", TESTS, "-m", "", "-q", f"--junitxml={report}"]
        code = subprocess.run([sys.executable, *command], cwd=evidence.ROOT).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = {"failure", "error", "skipped"}
    rows = []
    for title, test in (("at a named point", "test_named_points"), ("at a random moment", "test_random_moments")):
        chosen = [case for case in cases if test in case.get("name", "")]
        equal = [case for case in chosen if not bad & {child.tag for child in case}]
        rows.append([title, len(chosen), len(equal)])
    evidence.write(
        "resume",
        command="python benchmarks/resume.py",
        figures={"seconds": round(sum(float(case.get("time", 0)) for case in cases)), "tests": len(cases)},
        table={
            "columns": ["killed by SIGKILL", "trainings", "equal to the uninterrupted run, bit for bit"],
            "rows": rows,
        },
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
