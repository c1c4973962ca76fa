"""A run's objects (data, model, trainer, logs) and what it does between updates: validate, save, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from regard import directory, files, tasks
from regard.config import Config
from regard.data.prepare import OtherData, Prepared, prepare
from regard.data.random_streams import seed_stream
from regard.directory import Loaded
from regard.errors import RegardError
from regard.machine.memory import keep_memory, peak_memory
from regard.models import registry
from regard.models.contract import Model
from regard.nn.positions import TooLong
from regard.tasks.measuring import Abandoned, in_words, score_of
from regard.tasks.task import Task, Validation
from regard.training import checkpoint, previous, snapshots
from regard.training.average import swapped
from regard.training.distributed import Group
from regard.training.feed import Feed, Item
from regard.training.metrics import Metrics
from regard.training.optimizer import optimizer_tensors, restore_optimizer
from regard.training.position import LogSums, RunPosition, position_of
from regard.training.preflight import run_largest
from regard.training.progress import Pace, Progress
from regard.training.rates import SIZES, rate_for, work_of
from regard.training.rundir import DATA
from regard.training.schedule import learning_rate
from regard.training.start import model_parts, prepare_options
from regard.training.state import TrainingState
from regard.training.step import Statistics, Trainer

OnEvent = Callable[[str, Mapping[str, Any]], None]
SKIPS = 10  # updates in a row without a finite gradient, after which a run stops
WORTH_MEASURING = 30.0  # seconds of a run; a shorter one is not worth the seconds that measuring the matrix rate takes


class Session:
    """One process's part of a run. loop.py calls its methods; what fails soonest is built first."""

    def __init__(
        self,
        config: Config,
        run: Path,
        device: torch.device,
        group: Group,
        progress: Progress,
        interrupted: Callable[[], bool],
        start: Loaded | None = None,
        state: TrainingState | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """``start``: the initial model; ``state``: the checkpoint to resume from."""
        self.config, self.run, self.device, self.group = config, run, device, group
        self.progress, self.interrupted = progress, interrupted
        self.on_event = on_event or (lambda kind, values: None)
        if device.type == "cpu" and (note := keep_memory()):
            progress.say(note)
        tasks.check(config, "" if start is None else registry.architecture_of(start.options))
        self.task: Task = tasks.task_named(config.task)
        self.position = RunPosition() if state is None else position_of(state)
        try:
            self.prepared: Prepared = prepare(
                config,
                run / DATA,
                self.task.columns(config.data),
                **prepare_options(self.task, start),
                expected=self.position.corpus,
                say=progress.say,
            )
        except RegardError as error:
            if state is None or "no such file" not in str(error):
                raise
            hint = "corpora that were moved are named anew with --set data.train=… and --valid"
            raise RegardError(f"{error}; {hint}") from None
        except OtherData:
            raise RegardError(
                f"{run}: the training data is not what the run was begun with; restore it to go on, or name where it "
                "is now with --set data.train=… and --valid"
            ) from None
        self.options, settings, sizes = model_parts(config, self.task, self.prepared, start)
        self.model: Model = self._build(sizes) if start is None else start.model
        self.model.to(device)
        self.loaded = Loaded(
            model=self.model,
            options=self.options,
            settings=settings,
            tokenizer=self.prepared.tokenizer,
            target_tokenizer=self.prepared.target_tokenizer,
            card="",
            path=run,
            task=config.task,
            vocabulary=sizes,
        )
        self.trainer = Trainer(config, self.model, device, group, self.task.objective(config.training))
        self.feed = Feed(config, self.task.examples(config, self.prepared, settings), group)
        self.validation: Validation = self.task.validation(config, self.prepared.valid, self.loaded, interrupted)
        self.position.corpus = self.prepared.fingerprint
        self.pace = Pace()
        self.environment = checkpoint.environment(device) | {"processes": str(group.ranks)}
        self.saved = 0  # the step of the newest checkpoint; 0: none yet, and nothing to save
        self.metrics: Metrics | None = None
        if state is not None:
            self._restore(state)

    def _build(self, sizes: tuple[int, int | None]) -> Model:
        """A model with new weights, the same for the same seed."""
        seed_stream(self.config.seed, "weights")
        try:
            return self.options.build(*sizes)  # type: ignore[no-any-return]
        except ValueError as error:
            raise RegardError(f"model: {error}") from None

    # --- begin ------------------------------------------------------------------------------------------------------

    def _restore(self, state: TrainingState) -> None:
        """Load a checkpoint into model, optimizer and clock."""
        position = self.position
        parameters = dict(self.model.named_parameters())
        for name in sorted(parameters.keys() ^ state.weights.keys()):
            raise RegardError(f"{self.run}: '{name}' is not in both the checkpoint and the model of run.toml")
        for name, tensor in state.weights.items():
            if tensor.shape != parameters[name].shape:
                shapes = f"{list(tensor.shape)} in the checkpoint and {list(parameters[name].shape)}"
                raise RegardError(f"{self.run}: '{name}' is {shapes} in the model of run.toml")
        with torch.no_grad():
            for name, tensor in state.weights.items():
                parameters[name].copy_(tensor)
        restore_optimizer(self.trainer.optimizer, self.model, state.optimizer)
        self.trainer.ema = {name: tensor.to(self.device) for name, tensor in state.ema.items()}
        self.saved = position.step
        self.pace.before = state.clock["seconds"]
        self.progress.say(f"going on from update {position.step:,}")
        if position.step >= self.config.training.steps:
            self.progress.say(f"these are all {position.step:,} updates of training.steps: --steps N gives more")
        if note := checkpoint.not_exact(self.run, position.step, self.environment):
            self.progress.say(note)

    def preflight(self) -> None:
        """Report faults of the data, run the largest batch, measure the machine, open the logs."""
        for line in self.prepared.report.lines():
            self.progress.say(line)
        if self.validation.remark:
            self.progress.say(self.validation.remark)
        self.progress.say(self._size())
        try:
            estimate = run_largest(self.trainer, self.feed, self.position.epoch, fresh=self.position.step == 0)
            self.validation.rehearse()
        except TooLong as error:
            raise RegardError(f"the longest examples do not fit the model: {error}; lower data.max_length") from None
        training, done = self.config.training, (self.position.step, self.pace.before)
        for line in estimate.lines(training, *done):
            self.progress.say(line)
        self.work = work_of(self.model)
        if estimate.seconds(training, *done) > WORTH_MEASURING:
            # Not the largest product: it would set a small model's peak memory.
            rows, precision = training.batch_tokens, self.trainer.precision
            self.pace.matrix_rate = rate_for(self.model, rows, precision, sizes=SIZES[:2])
        if self.group.first:
            self.metrics = Metrics(self.run, keep=self.position.metrics_bytes, step=self.position.step)
            values = {"peak_bytes": estimate.bytes, "seconds_per_update": estimate.seconds_per_update}
            values |= {"matrix_rate": self.pace.matrix_rate, "threads": torch.get_num_threads()}
            self.metrics.time("preflight", self.position.step, values)
            self.on_event("preflight", values)
        self.pace.start(self.position.step)

    def _size(self) -> str:
        """One line with the numbers of subwords and parameters; a small text gives fewer subwords than configured."""
        tokenizer, target = self.prepared.tokenizer, self.prepared.target_tokenizer
        sizes = [tokenizer.size] if target is tokenizer else [tokenizer.size, target.size]
        asked = self.config.data.vocabulary
        fewer = min(sizes) < asked and not self.config.training.init
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{' and '.join(f'{size:,}' for size in sizes)} subwords"
            + (f" (data.vocabulary = {asked:,}: the text gives no more)" if fewer else "")
            + f", {parameters:,} parameters"
        )

    # --- between two updates ----------------------------------------------------------------------------------------

    def due(self, every: int) -> bool:
        return self.position.step > 0 and self.position.step % every == 0

    def validate(self) -> None:
        """Measure the weights (or their running average) and keep a snapshot; nothing changes if interrupted."""
        step, start = self.position.step, time.perf_counter()
        if self.metrics is not None:
            self.progress.doing(f"step {step:,} · validating")
            with swapped(self.model, self.trainer.ema):
                try:
                    values = self.validation.measure()
                except Abandoned:
                    return
                files.point("validate:measured")
                snapshots.write_snapshot(self.run, step, directory.stored(self.model))
            score = self.score(values)
            self.write("validation", values)
            line = in_words(self.task.figures, values)
            self.progress.validated(line, values.get("samples", ()), step, best=score > self.position.best()[1])
            self.position.scores.append((step, score))
            self.metrics.time("validation", step, {"seconds": time.perf_counter() - start})
            files.point("validate:recorded")
        self.position.validated = step

    def score(self, values: Mapping[str, Any]) -> float:
        """One number for a measurement, by the metric of the configuration; more is better, NaN is worst."""
        return score_of(tasks.metric_of(self.config), values)

    def save(self) -> None:
        """Write a checkpoint; then delete older ones, and snapshots that no checkpoint needs."""
        self.saved = step = self.position.step
        if self.metrics is None:
            return
        training, start = self.config.training, time.perf_counter()
        self.position.metrics_bytes = self.metrics.sync()
        state = TrainingState(
            step=step,
            weights=self.trainer.weights(),
            optimizer=optimizer_tensors(self.trainer.optimizer, self.model),
            ema=self.trainer.ema,
            position=self.position.plain(),
            clock={"seconds": self.pace.elapsed()},
        )
        checkpoint.save(self.run, state, self.environment)
        previous.forget(self.run)  # the run that this one has replaced
        kept = checkpoint.rotate(self.run, training.keep_checkpoints)
        scores, keep = self.position.scores, training.keep
        snapshots.prune(self.run, snapshots.needed(scores, average=training.average, keep=keep, checkpoints=kept))
        self.metrics.time("save", step, {"seconds": time.perf_counter() - start})

    def reason_to_stop(self) -> str:
        """Why the run ends here, the same in every process; "" when it goes on."""
        training, position = self.config.training, self.position
        reasons = {
            "interrupted": self.interrupted(),
            "steps": position.step >= training.steps,
            # At least one update, however short the time: a run without any has no model to keep.
            "minutes": position.step > 0 and 0 < training.minutes * 60 <= self.pace.elapsed(),
            "patience": 0 < training.patience <= position.without_improvement(),
        }
        names = ["", *reasons]
        own = next((name for name, true in reasons.items() if true), "")
        return names[self.group.from_first(names.index(own), self.device)]

    # --- after an update --------------------------------------------------------------------------------------------

    def account(self, item: Item, statistics: Statistics, seconds: float) -> None:
        """Count an update, and show and log it when due."""
        self.position.add(statistics, item.epoch, item.number)
        work = self.work.of(*item.lengths) * self.trainer.objective.passes * self.group.ranks
        self.pace.add(seconds, statistics.target_tokens, work)
        loss = statistics.loss / max(statistics.target_tokens, 1)
        self.progress.updated(self.position.step, loss, self.pace, item.epoch)
        if statistics.skipped:
            self._report_skip(item, loss)
        if self.due(self.config.training.log_every):
            self._log()

    def _log(self) -> None:
        position, sums = self.position, self.position.sums
        tokens = sums.target_tokens
        if tokens:
            nll = sums.nll / tokens
            values = {
                "epoch": position.epoch,
                "loss": sums.loss / tokens,
                "perplexity": math.exp(min(nll, 700.0)),
                "learning_rate": learning_rate(position.step, self.config.training, self.model.width),
                "gradient_norm": sums.gradient_norm / sums.updates,
                "target_tokens": position.target_tokens,
                "skipped": position.skipped,
            }
            self.write("train", values)
            self.progress.logged(position.step, values["loss"], self.pace, position.epoch)
        if self.metrics is not None:
            clock = {"tokens_per_second": self.pace.rate(), "share": self.pace.share(), "peak_bytes": peak_memory()}
            self.metrics.time("train", position.step, {**clock, "seconds": self.pace.elapsed()})
        position.sums = LogSums()
        self.pace.restart()

    def _report_skip(self, item: Item, loss: float) -> None:
        """Report the examples of a skipped update; stop the run after ``SKIPS`` in a row."""
        step, inside = self.position.step, [int(index) for micro in item.indices for index in micro]
        places = [self.feed.examples.where(index, item.epoch) for index in inside]
        self.write("skipped", {"loss": repr(loss), "examples": places})
        shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
        self.progress.say(f"update {step:,} skipped: its loss ({loss:g}) or gradient is not finite; batch: {shown}")
        if self.position.skipped_in_a_row >= SKIPS:
            if not previous.exists(self.run):  # such a run does not replace an earlier one
                self.save()
            raise RegardError(
                f"{self.run}: stopped at update {step}: {SKIPS} updates in a row had no finite loss or gradient; lower "
                "training.learning_rate, set training.clip_norm = 1, or look at the examples in metrics.jsonl"
            )

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write one row of the metrics, and call ``on_event`` with it."""
        if self.metrics is not None:
            self.metrics.write(kind, self.position.step, values)
            self.on_event(kind, {"step": self.position.step, **values})

    def close(self) -> None:
        if self.metrics is not None:
            self.metrics.close()
