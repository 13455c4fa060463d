"""Work on the lots of a stream in several processes at once, and the results in the order of the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

Lot = TypeVar("Lot")
Result = TypeVar("Result")

_ALONE = 4  # lots that this process works on before it starts others, which takes them seconds
_AHEAD = 2  # lots a process that are under way or wait to be taken, whatever the stream's length

_work: Callable[[Any], Any]  # of a worker process


def in_order(work: Callable[[Lot], Result], lots: Iterable[Lot], processes: int) -> Iterator[Result]:
    """`work` done on every lot. Few lots, and all of them where there is one process, are worked on in this process.

    Args:
        work: it is copied into each process once, so it should come from a module that imports little.
        processes: that work at the same time. Memory grows with their number alone.
    """
    stream = iter(lots)
    yield from map(work, islice(stream, _ALONE) if processes > 1 else stream)
    if (first := next(stream, None)) is None:
        return
    from loky import ProcessPoolExecutor  # its processes do not run the user's script again, as those of multiprocessing do

    pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(work,))
    try:
        waiting = deque([pool.submit(_run, first)])
        for lot in stream:
            waiting.append(pool.submit(_run, lot))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def in_lots(texts: Iterable[Lot], characters: int, size: Callable[[Lot], int]) -> Iterator[list[Lot]]:
    """A stream cut into lists of at least this many characters; the last one may have fewer."""
    lot: list[Lot] = []
    filled = 0
    for text in texts:
        lot.append(text)
        filled += size(text)
        if filled >= characters:
            yield lot
            lot, filled = [], 0
    if lot:
        yield lot


def _begin(work: Callable[[Any], Any]) -> None:
    global _work  # noqa: PLW0603 - a process has one work
    _work = work


def _run(lot: Any) -> Any:
    return _work(lot)
