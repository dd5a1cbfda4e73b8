"""From a request to its response, whole or streamed, within the limits; a client that leaves ends it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Send

from ..errors import DogeError
from .completions import prompts_of
from .engine import Engine
from .errors import ApiError, bad_request, error_body, of_library
from .limits import Held, Limits
from .schemas import CompletionRequest, Sampling

LOG = logging.getLogger("uvicorn.error")
T = TypeVar("T")
Body = TypeVar("Body", bound=Sampling)


class ReadRequest(Protocol):
    """A request that was read; see `asked.Underway`."""

    def completion(self) -> BaseModel:
        """The whole response, all answers being there."""

    def events(self) -> AsyncGenerator[str]:
        """The bodies of the events of a stream."""

    async def finish(self) -> None:
        """Wait for the last piece."""


class ClientGoneError(Exception):
    """The client has left."""


class Answering:
    """Answers requests to some models."""

    def __init__(self, engines: Mapping[str, Engine], limits: Limits) -> None:
        """engines: by name."""
        self._engines, self._limits = engines, limits

    async def answer(
        self, body: Body, request: Request, read: Callable[[Body, Engine, Limits], ReadRequest]
    ) -> Response:
        """The response. read: makes a job of the body.

        Raises ApiError for a request that is refused, and the errors of the library.
        """
        engine, time_ends = chosen(self._engines, body.model), self._now() + self._limits.max_seconds
        count, param = answers_of(body)
        held = engine.places.take(count, param)
        streams = False
        try:
            asked = await self._read_in_time(read, body, engine, time_ends)
            if body.stream:
                streams = True
                return EventStream(asked, held, time_ends, self._limits)
            return await self._whole(asked, request.receive, time_ends)
        finally:
            if not streams:
                held.give_back()

    async def _read_in_time(
        self, read: Callable[[Body, Engine, Limits], ReadRequest], body: Body, engine: Engine, time_ends: float
    ) -> ReadRequest:
        try:
            async with asyncio.timeout_at(time_ends):
                return await asyncio.to_thread(self._read, read, body, engine)
        except TimeoutError as error:
            raise out_of_time(self._limits) from error

    def _read(self, read: Callable[[Body, Engine, Limits], ReadRequest], body: Body, engine: Engine) -> ReadRequest:
        try:
            return read(body, engine, self._limits)
        except RecursionError as error:
            raise bad_request("the request nests lists and objects too deep; give plainer ones") from error

    async def _whole(self, asked: ReadRequest, receive: Receive, time_ends: float) -> Response:
        try:
            async with asyncio.timeout_at(time_ends):
                await unless_gone(receive, asked.finish())
        except TimeoutError as error:
            raise out_of_time(self._limits) from error
        except ClientGoneError:
            return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)  # which nobody reads
        content = await asyncio.to_thread(lambda: asked.completion().model_dump_json())  # megabytes with an echo
        return Response(content, media_type="application/json")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class EventStream(StreamingResponse):
    """The events of a stream, `[DONE]` at the end, or an error in their place."""

    def __init__(self, asked: ReadRequest, held: Held, time_ends: float, limits: Limits) -> None:
        """held: the places, given back at the end. time_ends: by the event loop's clock."""
        super().__init__((), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._asked, self._held, self._time_ends, self._limits = asked, held, time_ends, limits

    async def stream_response(self, send: Send) -> None:
        """Send everything; a client that reads too slowly is left when its time is over."""
        try:
            async with asyncio.timeout_at(self._time_ends + 1):  # so that an error can still be told
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async with aclosing(self._lines()) as lines:
                    async for line in lines:
                        await send({"type": "http.response.body", "body": line, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            LOG.warning("a client did not read its answer in time and was left")
        finally:
            self._held.give_back()

    async def _lines(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._asked.events()) as events:
            while True:
                try:
                    async with asyncio.timeout_at(self._time_ends):
                        line = line_of(await anext(events))
                except StopAsyncIteration:
                    yield line_of("[DONE]")
                    return
                except TimeoutError:
                    yield error_line(out_of_time(self._limits))
                    return
                except DogeError as error:
                    yield error_line(of_library(error))
                    return
                yield line


def line_of(data: str) -> bytes:
    """An event as it is sent."""
    return f"data: {data}\n\n".encode()


def error_line(error: ApiError) -> bytes:
    """An error in the midst of a stream."""
    return line_of(json.dumps(error_body(error.status_code, error.detail, error.param, error.code)))


def out_of_time(limits: Limits) -> ApiError:
    """The error of a request that took too long."""
    return ApiError(
        HTTPStatus.REQUEST_TIMEOUT,
        f"the answer took longer than {limits.max_seconds:g} s, which is the most; ask for fewer tokens",
        code="timeout",
    )


def answers_of(body: Sampling) -> tuple[int, str]:
    """The number of answers that a request asks for, and the field that says so."""
    count = body.n or 1
    if isinstance(body, CompletionRequest):
        prompts = len(prompts_of(body))
        return count * prompts, "prompt" if prompts > 1 else "n"
    return count, "n"


def chosen(engines: Mapping[str, Engine], name: str) -> Engine:
    """The model of that name; ApiError where there is none."""
    if name not in engines:
        there = ", ".join(engines)
        raise ApiError(
            HTTPStatus.NOT_FOUND, f"there is no model {name[:100]!r}; there are: {there}", "model", "model_not_found"
        )
    return engines[name]


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is broken off when the client leaves: then ClientGoneError."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def until_gone(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
