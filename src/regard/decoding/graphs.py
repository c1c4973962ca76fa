"""A step of decoding as one CUDA graph: the host launches it at once, and not its hundreds of kernels one by one.

A graph runs the same kernels on the same memory again. So all steps must be alike (``RunningBatch.uniform``,
``Slots.fixed``), and what a step leaves for the next one is copied to where it was read. A graph is captured
when a step has the shapes of the one before, and lasts until sentences enter, leave, or need more slots in a way that
changes them.
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
    """What a step made beside the changes of its batch: ``parents`` [B, N] and, in beam search, the candidates."""

    parents: Tensor
    candidates: Candidates | None


Advance = Callable[[], Advanced]
#: Captures work and gives what runs it (again), and what the work returned: tensors that each run fills.
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
            # Not torch.cuda.graph, which also empties the cache of memory, and that takes longer than the capture.
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                advanced = advance()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return graph.replay, advanced


#: What makes a ``Capture`` for a kind of device.
CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}


class Graphs:
    """The steps of one scheduler, captured where that pays and else run as they are."""

    def __init__(self, model: Model, capture: Capture) -> None:
        self.model = model
        self.capture: Capture | None = capture  # None once it has failed
        self.shapes: object = None  # of the last step
        self.tensors: list[Tensor] = []  # what the graph reads and writes
        self.tables: list[Tensor] = []  # what it only reads, and somebody else may want to let go
        self.replay: Callable[[], None] | None = None
        self.advanced: Advanced | None = None

    def step(self, running: RunningBatch, advance: Advance) -> Advanced:
        """``advance`` moves the batch by one step, on the device and on the host; so does this."""
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
        """Captures a step, which counts it on the host; on the device nothing has happened then."""
        owners = [running, running.state, _state(running).slots, *_state(running).caches]
        before = [dict(vars(owner)) for owner in owners]
        tensors = _tensors(running)

        def work() -> Advanced:
            # Its mask is made in the graph, of what may change: the lengths.
            _state(running).refresh_memory_layout()
            advanced = advance()
            for place, left in zip(tensors, _tensors(running), strict=True):
                if left is not place:
                    place.copy_(left)
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
        """What was changed between two steps, when sentences entered, goes where the graph reads it."""
        for place, now in zip(self.tensors, _tensors(running), strict=True):
            if now is not place:
                place.copy_(now)
        _hold(running, self.tensors)


def _state(running: RunningBatch) -> KeyValueState:
    """The state of a uniform batch: steps of other states are not captured."""
    assert isinstance(running.state, KeyValueState)
    return running.state


OWN = (*RunningBatch.per_sentence, "table")  # a batch's tensors


def _tensors(running: RunningBatch) -> list[Tensor]:
    """All that goes from a step to the next, in an order of its own."""
    return [*(getattr(running, name) for name in OWN), *_state(running).tensors()]


def _hold(running: RunningBatch, tensors: list[Tensor]) -> None:
    """The inverse of ``_tensors``: gives a batch and its state the ``tensors``."""
    for name, tensor in zip(OWN, tensors, strict=False):
        setattr(running, name, tensor)
    _state(running).hold(tensors[len(OWN) :])


def _shapes(running: RunningBatch) -> object:
    """What must not change while a graph is used: shapes, and how many positions there are tables for."""
    return _state(running).capacity, [tensor.shape for tensor in _tensors(running)]
