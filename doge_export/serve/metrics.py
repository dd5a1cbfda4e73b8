"""Counts and times of a server, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..runtime.batch_generation import BatchRequest
from ..runtime.streaming import AnswerText
from .limits import Places

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The figures of one server.

    Attributes:
        first_token: seconds from a request's place in the queue to its first token, by model.
        seconds: of whole requests, by path.
        requests: by path and status.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("doge_requests", "Requests", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "doge_request_seconds", "Seconds of a request", ["path"], buckets=SECONDS, registry=self._registry
        )
        self.first_token = Histogram(
            "doge_time_to_first_token_seconds",
            "Seconds until the first token",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._prompt_tokens = Counter("doge_prompt_tokens", "Prompt tokens", ["model"], registry=self._registry)
        self._cached_tokens = Counter(
            "doge_cached_prompt_tokens", "Prompt tokens that were known", ["model"], registry=self._registry
        )
        self._new_tokens = Counter("doge_completion_tokens", "New tokens", ["model"], registry=self._registry)
        self._running = Gauge("doge_streams_running", "Answers under way", ["model"], registry=self._registry)
        self._waiting = Gauge("doge_streams_waiting", "Answers in the queue", ["model"], registry=self._registry)

    def count(self, model: str, requests: Sequence[BatchRequest], answers: Sequence[AnswerText]) -> None:
        """Take in the tokens of a request that has ended."""
        self._prompt_tokens.labels(model).inc(sum(len(request.prompt_ids) for request in requests))
        self._cached_tokens.labels(model).inc(sum(request.tokens_found for request in requests))
        self._new_tokens.labels(model).inc(sum(answer.count for answer in answers))

    def text(self, places: Mapping[str, Places]) -> bytes:
        """Everything in Prometheus' text format. places: of each model."""
        for model, own in places.items():
            self._running.labels(model).set(own.taken - own.waiting)
            self._waiting.labels(model).set(own.waiting)
        return generate_latest(self._registry)


class Counted:
    """Counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = "499", time.monotonic()  # nginx's status of a client that left before the answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = scope.get("route")
            path = route.path if isinstance(route, APIRoute) else "other"
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - start)
