"""Pieces of text for `async for`: each is computed in a thread, so the event loop stays free."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class AsyncPieces(AsyncIterator[T], Generic[T]):
    """An iterator of pieces, read in a thread of its own.

    A task that is cancelled waits until the piece at hand is computed, as with anyio's threads. So nothing runs on
    behind its back. The thread ends with the iterator.
    """

    def __init__(self, pieces: Iterator[T]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - with asyncio a tenth of a program's start

        self._pieces = pieces
        self._thread = ThreadPoolExecutor(1, "doge-stream")

    async def __anext__(self) -> T:
        """The next piece. Raises the errors of the iterator."""
        import asyncio  # noqa: PLC0415 - as above; whoever awaits has imported it

        step = asyncio.get_running_loop().run_in_executor(self._thread, self._next)
        try:
            piece = await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait([step])
            raise
        if piece is None:
            self._thread.shutdown(wait=False)
            raise StopAsyncIteration
        return piece

    def _next(self) -> T | None:
        """The next piece, None after the last: a future cannot carry a StopIteration."""
        return next(self._pieces, None)
