"""The paths of the server, in FastAPI, whose OpenAPI document states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import DogeError
from .answering import Answering, chosen
from .chats import asked_chat
from .completions import asked_completion
from .engine import Engine
from .errors import ApiError, ErrorBody, error_body, error_response, invalid_body, of_library
from .limits import Gate, Limits
from .metrics import Counted, Metrics
from .page import Page
from .responses import ChatCompletion, Completion, Health, ModelCard, ModelList
from .schemas import ChatRequest, CompletionRequest

REFUSALS = (400, 401, 404, 405, 408, 413, 429, 500)


def create_app(
    engines: Mapping[str, Engine], limits: Limits, metrics: Metrics, key: str | None = None, page: Page | None = None
) -> FastAPI:
    """The application. engines: by the names of their models. key: that every request but /health needs."""
    app = FastAPI(
        title="doge-serve",
        version=__version__,
        description="Exported Doge and Llama models by OpenAI's interface.",
        responses={status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in REFUSALS},
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Gate, key=key, limits=limits)
    app.add_middleware(Counted, metrics=metrics)
    add_error_handlers(app)
    add_models(app, engines, metrics, page or Page(list(engines), {}))
    app.openapi = partial(document, app, list(engines))  # type: ignore[method-assign]  # FastAPI's way to extend it
    server = Answering(engines, limits)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await server.answer(body, request, asked_chat)

    @app.post("/v1/completions", response_model=Completion, responses=STREAMED)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await server.answer(body, request, asked_completion)

    return app


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answers; with stream: true the same in pieces, as events.",
        "content": {"text/event-stream": {}},  # a schema would be taken as that of each event with its name
    }
}


def add_models(app: FastAPI, engines: Mapping[str, Engine], metrics: Metrics, page: Page) -> None:
    """The paths of models, figures and the page."""

    @app.head("/health", include_in_schema=False)
    @app.get("/health", response_model=Health)
    async def health() -> Health:
        return Health()

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        return ModelList(data=[card(engine) for engine in engines.values()])

    @app.get("/v1/models/{name}", response_model=ModelCard)
    async def model(name: str) -> ModelCard:
        return card(chosen(engines, name))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures() -> Response:
        places = {name: engine.places for name, engine in engines.items()}
        return Response(metrics.text(places), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> HTMLResponse:
        return HTMLResponse(page.html(str(request.base_url)), headers=page.headers)

    @app.get("/reports/{name}", include_in_schema=False)
    async def report(name: str) -> HTMLResponse:
        return HTMLResponse(page.report(name), headers=page.headers)


def card(engine: Engine) -> ModelCard:
    """A model in the list of models."""
    return ModelCard(id=engine.name, created=engine.created, max_model_len=engine.model.context_size)


def document(app: FastAPI, names: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI document of the application, with the names of its models."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for request in (ChatRequest, CompletionRequest):
            fields = app.openapi_schema["components"]["schemas"][request.__name__]["properties"]
            fields["model"]["enum"] = list(names)
    return app.openapi_schema


def why_unreadable(cause: BaseException | None) -> str:
    """The sentence about a body that FastAPI cannot read as JSON; cause: the error that it met."""
    if isinstance(cause, RecursionError):
        return "the body cannot be read, as it nests lists and objects too deep; give plainer ones"
    if isinstance(cause, UnicodeDecodeError):
        return "the body is not in UTF-8; send JSON in that"
    return f"the body cannot be read as JSON ({cause}); send an object of JSON"


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the shape of OpenAI's interface."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError) and error.status_code in (404, 405):
            error.detail = f"{request.method} {request.url.path[:100]} is not offered; /openapi.json has the paths"
        elif not isinstance(error, ApiError) and error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's, of a body
            error.detail = why_unreadable(error.__cause__)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(invalid_body(error.errors()))

    @app.exception_handler(DogeError)
    async def faulty(request: Request, error: DogeError) -> JSONResponse:
        return error_response(of_library(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, "the server failed; its log has the traceback"), 500)
