import io
import math

from rich.console import Console

from regard.config import TrainingConfig
from regard.tasks.measuring import in_words
from regard.tasks.translation import Translation
from regard.training.progress import Pace, Progress, describe

VALUES = {
    "loss": 1.5,
    "perplexity": 4.48,
    "bleu": 12.345,
    "samples": [{"source": "[bold]我", "hypothesis": "I", "reference": "me"}],
}


def pace(matrix_rate: float = 100.0) -> Pace:
    there = Pace(matrix_rate=matrix_rate)
    there.start(10)
    there.started -= 50  # 50 seconds ago
    there.add(seconds=4.0, target_tokens=2000, work=200.0)
    return there


def test_a_line_says_loss_rate_share_and_time_left() -> None:
    training = TrainingConfig(steps=1010)
    assert describe(20, 0, 4.25, pace(), training) == (
        "step 20/1,010 · epoch 1 · loss 4.250 · 500 tokens/s · 50% of the matrix rate · 1 h 22 min left"
    )
    assert "matrix" not in describe(20, 0, 4.25, pace(0.0), training)
    limited = describe(20, 0, 4.25, pace(), TrainingConfig(steps=1010, minutes=2))
    assert limited.endswith("1 min 10 s left")


def test_time_that_earlier_processes_took_counts_for_the_budget_only() -> None:
    there = pace()
    there.before = 60.0
    assert math.isclose(there.elapsed(), 110, abs_tol=1)
    assert math.isclose(there.left(20, TrainingConfig(steps=30)), 50, abs_tol=2)
    assert math.isclose(there.left(20, TrainingConfig(minutes=2)), 10, abs_tol=1)
    there.restart()
    assert there.rate() == there.share() == 0.0


def drawn(terminal: bool, silent: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    with Progress(TrainingConfig(steps=100), silent=silent, console=console) as progress:
        progress.doing("validating")
        progress.updated(20, 4.25, pace(), 0)
        progress.logged(20, 4.25, pace(), 0)
        progress.validated(in_words(Translation.figures, VALUES), VALUES["samples"], 20, best=True)
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = drawn(terminal=False).splitlines()
    assert lines[0].startswith("step 20/100 · epoch 1 · loss 4.250 · 500 tokens/s")
    assert lines[1] == "step 20 · validation loss 1.500 · perplexity 4.48 · BLEU 12.35 · the best so far"
    assert lines[2:] == ["    [bold]我", "      → I", "      = me"]


def test_a_live_line_on_a_terminal_and_silence_in_other_processes() -> None:
    text = drawn(terminal=True)
    assert "━" in text and "validating" in text and "loss 4.250" in text and "\x1b[" in text
    assert drawn(terminal=True, silent=True) == drawn(terminal=False, silent=True) == ""
