"""The page at `/`: how to call the server from curl, Python and JavaScript, and its models with their reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import jinja2

from .. import __version__
from ..places import PAGE_FILE
from .errors import ApiError

TEMPLATE = Path(__file__).parent / "page.html.jinja"
# a report comes with a model from elsewhere, so nothing in it may run, or ask anybody for anything
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """The page, and the reports as they were when the server started."""

    headers = HEADERS

    def __init__(self, models: Sequence[str], folders: Mapping[str, Path]) -> None:
        """models: their names. folders: theirs, where they are known."""
        self._models = list(models)
        files = {name: folder / PAGE_FILE for name, folder in folders.items()}
        self._reports = {
            name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items() if file.is_file()
        }
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))

    def html(self, url: str) -> str:
        """The page. url: of the server, as its reader has called it."""
        return self._template.render(
            url=url.rstrip("/"), models=self._models, reports=self._reports, version=__version__
        )

    def report(self, name: str) -> str:
        """The report of a model; ApiError where there is none."""
        if name not in self._reports:
            raise ApiError(HTTPStatus.NOT_FOUND, f"there is no report of a model {name[:100]!r}", "name")
        return self._reports[name]
