"""Errors over HTTP, in the shape of OpenAI's interface: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..errors import DogeError, OptionError

TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_error",
}
# pydantic names the branch of a union in the place of an error; no client has sent such a name
BRANCH = re.compile(r"str|int|bool|list\[.*|(?:constrained|function)-.*|[A-Z]\w*|\[key\]")
# how a sentence of the library begins
OPTION = re.compile(r"(\w+)(?:\[.*?\])* (?:is|has|holds|names|cannot|combines) ")
FIELDS = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "json_schema": "response_format",
    "the": None,
    "a": None,
}
TAGGED = "response_format"  # behind which pydantic names the branch by its tag
DIGITS = re.compile(r"\d+")


class ErrorDetail(BaseModel):
    """The fault, the field that is wrong where there is one, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A request that is refused, in one sentence."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """param: the field that is wrong. code: a word for programs."""
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a field that is wrong."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param, code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = TYPES.get(HTTPStatus(status), "invalid_request_error")
    detail = ErrorDetail(message=" ".join(message.split()), type=kind, param=param, code=code)
    return ErrorBody(error=detail).model_dump()


def error_response(error: HTTPException) -> JSONResponse:
    """The response of a refused request."""
    param, code = (error.param, error.code) if isinstance(error, ApiError) else (None, None)
    return JSONResponse(error_body(error.status_code, error.detail, param, code), error.status_code, error.headers)


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The error of a body that breaks the schema.

    Of several faults it tells one that is no wrong type, as those are of other branches of a union, and lies deepest.
    """
    fault = max(errors, key=lambda error: (not error["type"].endswith("_type"), len(error["loc"])))
    if fault["type"] == "json_invalid":
        return bad_request(f"the body is no valid JSON: {fault.get('ctx', {}).get('error', 'it cannot be read')}")
    places = [place for above, place in pairwise(fault["loc"]) if above != TAGGED and not BRANCH.fullmatch(str(place))]
    param = field_name(places)
    message = fault["msg"].removeprefix("Value error, ")
    if not param:
        return bad_request("the body must be a JSON object, with the header Content-Type: application/json")
    return bad_request(f"{param}: {message[:1].lower()}{message[1:]}", param)


def field_name(parts: Sequence[object]) -> str:
    """The place of a field as OpenAI writes it: messages[0].content."""
    name = ""
    for part in parts:
        text = str(part)
        name += f"[{text}]" if DIGITS.fullmatch(text) else f".{text}" if name else text
    return name


def of_library(error: DogeError) -> ApiError:
    """The error of a request that the library refuses, or of a model that it cannot run."""
    if isinstance(error, OptionError):
        option = OPTION.match(str(error))
        return bad_request(str(error), None if option is None else FIELDS.get(option[1], option[1]))
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
