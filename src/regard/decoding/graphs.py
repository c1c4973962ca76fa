"""A step of decoding as one CUDA graph, which the host starts at once instead of hundreds of kernels one by one.

A graph runs the same kernels on the same memory again. So every step must run the same operators
(``RunningBatch.uniform``, ``Slots.fixed``), and a step's results are copied into the tensors that the next step reads.
A graph is captured when a step has the shapes of the step before, and is used until these shapes change because
sentences enter, leave or need more slots.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from regard.decoding.running_batch import RunningBatch
from regard.decoding.search import Candidates
from regard.models.contract import Model
from regard.nn.positions import SinusoidalPositions
from regard.nn.states import KeyValueState


class Advanced(NamedTuple):
    """A step's results besides its changes to the batch: ``parents`` [B, N] and, in beam search, the candidates."""

    parents: Tensor
    candidates: Candidates | None


Advance = Callable[[], Advanced]
#: Captures a step and returns a function that runs it (again), and the step's results, which each run writes anew.
Capture = Callable[[Advance], tuple[Callable[[], None], Advanced]]


class CudaCapture:
    """Captures for CUDA; the graphs, of which only the newest is used, share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, advance: Advance) -> tuple[Callable[[], None], Advanced]:
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            # torch.cuda.graph would also empty the cache of freed memory, which takes longer than the capture.
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                advanced = advance()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return graph.replay, advanced


#: Kind of device → its ``Capture``.
CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}


class Graphs:
    """The steps of one scheduler, captured where that pays and else run as they are."""

    def __init__(self, model: Model, capture: Capture) -> None:
        self.model = model
        self.capture: Capture | None = capture  # None once it has failed
        self.shapes: object = None  # of the last step
        self.tensors: list[Tensor] = []  # what the graph reads and writes
        self.tables: list[Tensor] = []  # what the graph only reads; kept alive, as the model may replace them
        self.replay: Callable[[], None] | None = None
        self.advanced: Advanced | None = None

    def step(self, running: RunningBatch, advance: Advance) -> Advanced:
        """Move the batch by one step, on the device and on the host, as ``advance`` does."""
        _state(running).make_room(running.state.beams)
        shapes, known = _shapes(running), self.shapes
        self.shapes = shapes
        if shapes != known or self.capture is None:
            self.replay = self.advanced = None
            return advance()
        if self.replay is None:
            try:
                self._capture(self.capture, running, advance)
            except RuntimeError as error:
                warnings.warn(f"decoding goes on without CUDA graphs: {str(error).splitlines()[0]}", stacklevel=2)
                self.capture = None
                return advance()
        else:
            self._put_back(running)
            _state(running).replayed()
            running.ages = running.ages + 1
        assert self.replay is not None and self.advanced is not None
        self.replay()
        return self.advanced

    def _capture(self, capture: Capture, running: RunningBatch, advance: Advance) -> None:
        """Capture a step: the host's part is done with that, the device's part only when the graph is run."""
        owners = [running, running.state, _state(running).slots, *_state(running).caches]
        before = [dict(vars(owner)) for owner in owners]
        tensors = _tensors(running)

        def work() -> Advanced:
            # The memory's mask is made in the graph from the lengths, which change when sentences enter.
            _state(running).refresh_memory_layout()
            advanced = advance()
            for read, result in zip(tensors, _tensors(running), strict=True):
                if result is not read:
                    read.copy_(result)
            return advanced

        try:
            replay, advanced = capture(work)
        except RuntimeError:
            for owner, values in zip(owners, before, strict=True):
                vars(owner).update(values)
            raise
        layout = before[1]["memory_layout"]
        _hold(running, tensors)
        _state(running).memory_layout = layout
        self.tensors, self.replay, self.advanced = tensors, replay, advanced
        self.tables = [module.table for module in self.model.modules() if isinstance(module, SinusoidalPositions)]

    def _put_back(self, running: RunningBatch) -> None:
        """Copy tensors that were replaced between two steps, when sentences entered, to where the graph reads them."""
        for read, current in zip(self.tensors, _tensors(running), strict=True):
            if current is not read:
                read.copy_(current)
        _hold(running, self.tensors)


def _state(running: RunningBatch) -> KeyValueState:
    """The state of a uniform batch: steps of other states are not captured."""
    assert isinstance(running.state, KeyValueState)
    return running.state


OWN = (*RunningBatch.per_sentence, "table")  # a batch's tensors


def _tensors(running: RunningBatch) -> list[Tensor]:
    """All tensors that go from a step to the next, in a fixed order."""
    return [*(getattr(running, name) for name in OWN), *_state(running).tensors()]


def _hold(running: RunningBatch, tensors: list[Tensor]) -> None:
    """The inverse of ``_tensors``: gives a batch and its state the ``tensors``."""
    for name, tensor in zip(OWN, tensors, strict=False):
        setattr(running, name, tensor)
    _state(running).hold(tensors[len(OWN) :])


def _shapes(running: RunningBatch) -> object:
    """The shapes of all tensors, and the number of positions with a table: a graph is used while they stay the same."""
    return _state(running).capacity, [tensor.shape for tensor in _tensors(running)]
