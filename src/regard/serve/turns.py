"""Takes sentences of several requests, one of each in turn, so that a long request does not hold up a short one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from regard.decoding.waiting import Input, size


class Turns:
    """The sentences that wait to be decoded, a queue for each request.

    >>> turns = Turns()
    >>> turns.add([Input(1, [5, 5]), Input(2, [5, 5])])
    >>> turns.add([Input(3, [5])])
    >>> [one.number for one in turns.take(100)]
    [1, 3, 2]
    """

    def __init__(self) -> None:
        self._queues: deque[deque[Input]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, sentences: Iterable[Input]) -> None:
        """Add the sentences of one request, in their order."""
        if queue := deque(sentences):
            self._queues.append(queue)

    def take(self, room: int) -> list[Input]:
        """The next sentences, until they have ``room`` tokens, end marks counted; the last one may exceed it."""
        taken: list[Input] = []
        while self._queues and room > 0:
            queue = self._queues.popleft()
            taken.append(queue.popleft())
            room -= size(taken[-1])
            if queue:
                self._queues.append(queue)
        return taken

    def drop(self, numbers: Iterable[int]) -> None:
        """Leave out sentences that nobody waits for any more."""
        gone = set(numbers)
        left = (deque(one for one in queue if one.number not in gone) for queue in self._queues)
        self._queues = deque(queue for queue in left if queue)
