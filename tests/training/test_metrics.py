import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regard.errors import RegardError
from regard.training.metrics import METRICS, TIMING, Metrics, read_rows


def test_a_resumed_run_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    values = [1 / 3, 1e-17, 2.5]
    whole = Metrics(tmp_path / "whole")
    for step, value in enumerate(values):
        whole.write("train", step, {"loss": value})
    whole.close()

    first = Metrics(tmp_path / "killed")
    first.write("train", 0, {"loss": values[0]})
    kept = first.sync()
    first.write("train", 1, {"loss": values[1]})
    first._metrics.write(b'{"kind": "train", "st')  # torn by the kill
    first.close()
    second = Metrics(tmp_path / "killed", keep=kept, step=0)
    for step in (1, 2):
        second.write("train", step, {"loss": values[step]})
    second.close()

    assert (tmp_path / "killed" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
    assert [row["loss"] for row in read_rows(tmp_path / "killed" / METRICS)] == values
    assert list((tmp_path / "whole" / "tensorboard").glob("events*"))


def test_clocks_stand_apart(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.time("train", 5, {"tokens_per_second": 100.0})
    metrics.write("validation", 5, {"bleu": 1.0, "samples": [{"source": "a", "reference": "b", "hypothesis": "ü"}]})
    metrics.close()
    assert read_rows(tmp_path / TIMING) == [{"kind": "train", "step": 5, "tokens_per_second": 100.0}]
    (row,) = read_rows(tmp_path / METRICS, "validation")
    assert row["samples"][0]["hypothesis"] == "ü" and "seconds" not in json.dumps(row)


def test_a_metrics_file_that_lost_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(b"{}\n")
    with pytest.raises(RegardError, match="3 bytes, but the checkpoint was made when it had 100"):
        Metrics(tmp_path, keep=100)


@pytest.mark.parametrize("line", ["{", "[1]", "7", "{}", '{"kind": "train"}', '{"kind": 1, "step": 1}', "[" * 100_000])
def test_a_damaged_row_names_its_file_and_line(tmp_path: Path, line: str) -> None:
    (tmp_path / METRICS).write_text(f'{{"kind": "train", "step": 1}}\n{line}\n', "utf-8")
    with pytest.raises(RegardError, match=rf"{METRICS}:2: damaged"):
        read_rows(tmp_path / METRICS)


@pytest.mark.parametrize("name", [METRICS, TIMING])
def test_a_link_out_of_the_run_is_not_cut_short_there(tmp_path: Path, name: str) -> None:
    """And a FIFO is not waited for: a run directory may come from anywhere."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "diary").write_text("dear diary", "utf-8")
    (run / name).symlink_to(tmp_path / "diary")
    with pytest.raises(RegardError, match=f"{name}: a link out of its folder"):
        Metrics(run)
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(RegardError, match=f"{name}: expected a regular file, found a FIFO"):
        Metrics(run)
    assert (tmp_path / "diary").read_text("utf-8") == "dear diary"


def test_half_a_row_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.time("train", 1, {"seconds": 1.0})
    metrics.close()
    with open(tmp_path / TIMING, "ab") as file:
        file.write(b'{"kind": "train", "st')
    metrics = Metrics(tmp_path)
    metrics.time("train", 2, {"seconds": 2.0})
    metrics.close()
    assert [row["step"] for row in read_rows(tmp_path / TIMING)] == [1, 2]


FULL = """
import resource, sys, time
from pathlib import Path
from regard.errors import RegardError
from regard.training.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))  # less than the first bytes of TensorBoard's file
try:
    for step in range(1, 50):
        metrics._plot("train", step, {"loss": 1.0})
        time.sleep(0.05)
except RegardError as error:
    print(error)
time.sleep(0.5)  # whatever the thread has to print
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_full_disk_is_one_line_also_where_tensorboards_own_thread_meets_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and "tensorboard: cannot be written" in done.stdout
    assert "Traceback" not in done.stderr
