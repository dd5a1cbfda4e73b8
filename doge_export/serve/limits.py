"""Bounds on clients: how many answers may wait, how large and slow a request may be, and who may ask."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import time
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, bad_request, error_response

OPEN_PATHS = ("/health",)  # for whoever watches the server, without a key
BODY_SECONDS = 30.0
LONGEST_RETRY = 60


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    max_streams: answers that are computed at a time, for each model. max_queue: answers that may wait for a place.
    max_seconds: for a whole request. max_body_bytes: of a request. max_prompt_tokens: of one prompt.
    """

    max_streams: int = 8
    max_queue: int = 64
    max_seconds: float = 600.0
    max_body_bytes: int = 4_000_000
    max_prompt_tokens: int = 32_768


class Places:
    """Places for answers of one model, those that are computed and those that wait.

    Attributes:
        taken: of them.
    """

    def __init__(self, limits: Limits) -> None:
        self.most = limits.max_streams + limits.max_queue
        self._at_a_time = limits.max_streams
        self.taken = 0
        self._seconds = 1.0  # that a request took lately

    @property
    def waiting(self) -> int:
        """Answers that have no stream yet."""
        return max(0, self.taken - self._at_a_time)

    def take(self, count: int, param: str) -> Held:
        """Places for the answers of a request.

        param: the field that asks for so many. Raises ApiError where they are more than ever fit, or are not free.
        """
        if count > self.most:
            raise bad_request(
                f"{param} asks for {count} answers, and the server takes {self.most} at most; give fewer", param
            )
        if self.taken + count > self.most:
            rounds = math.ceil((self.waiting + count) / self._at_a_time)
            seconds = min(LONGEST_RETRY, max(1, math.ceil(rounds * self._seconds)))
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self.taken} answers are under way or wait, and {self.most} is the most; try again in {seconds} s",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        self.taken += count
        return Held(self, count)

    def give_back(self, count: int, seconds: float) -> None:
        """Free places that a request has held for so long."""
        self.taken -= count
        self._seconds += (seconds - self._seconds) / 8


class Held:
    """Places of one request."""

    def __init__(self, places: Places, count: int) -> None:
        self._places, self._count = places, count
        self._since = time.monotonic()

    def give_back(self) -> None:
        """Free them; once is enough, and more does no harm."""
        count, self._count = self._count, 0
        if count:
            self._places.give_back(count, time.monotonic() - self._since)


def is_allowed(authorization: bytes, key: str) -> bool:
    """Whether a header `Authorization` holds the key, as a bearer's token or as a password that a browser asked for."""
    scheme, _, given = authorization.partition(b" ")
    given = given.strip()
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(given, key.encode())


class Gate:
    """Refuses requests without the key and bodies that are too large or too slow, before anything reads them."""

    def __init__(self, app: ASGIApp, key: str | None, limits: Limits) -> None:
        """key: None lets everybody in."""
        self._app, self._key, self._limits = app, key, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope["path"], dict(scope["headers"]))
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if (
            self._key is not None
            and path not in OPEN_PATHS
            and not is_allowed(headers.get(b"authorization", b""), self._key)
        ):
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                "the key is missing or wrong; send it in the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Basic realm="the API key is the password"'},
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._limits.max_body_bytes:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        size, body_ends = 0, time.monotonic() + BODY_SECONDS
        is_body = True

        async def bounded() -> Message:
            nonlocal size, is_body
            try:
                async with asyncio.timeout(body_ends - time.monotonic() if is_body else None):
                    message = await receive()
            except TimeoutError as error:
                raise ApiError(
                    HTTPStatus.REQUEST_TIMEOUT, f"the body took longer than {BODY_SECONDS:.0f} s; send it at once"
                ) from error
            size += len(message.get("body", b""))
            if size > self._limits.max_body_bytes:
                raise self._too_large()
            is_body = is_body and bool(message.get("more_body", False))
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {self._limits.max_body_bytes:,} bytes, which is the most; send less",
        )
