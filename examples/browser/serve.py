"""Serve the chat page and a model on this machine, with the headers that threads need.

    npm install --prefix javascript --ignore-scripts && npm run --prefix javascript assemble    # once
    python examples/browser/serve.py FOLDER

FOLDER is one that doge-export wrote. The page's address is printed. It works offline once it was loaded.
"""

import argparse
import contextlib
import http.server
import io
import sys
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, urlsplit

PAGE = Path(__file__).parent
PAGE_FILES = ("index.html", "style.css", "page.js", "worker.js", "service_worker.js")
PACKAGE = PAGE.parents[1] / "javascript" / "browser"
MOST_PORT = 65_535
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Three folders as one: the page at /, the package at /doge-export/, the model at /model/ and its name."""

    folder: Path
    requestline = ""  # until one is read
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def translate_path(self, path: str) -> str:
        """The file of an address; that of an empty path, which is none, where there is nothing to be had."""
        inner = Path(super().translate_path(path)).relative_to(self.directory)
        first, *rest = inner.parts or ("index.html",)
        if first == "model":
            return str(self.folder.joinpath(*rest[1:]))
        if first == "doge-export":
            return str(PACKAGE.joinpath(*rest))
        return str(PAGE / first) if first in PAGE_FILES and not rest else ""

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Answer one request; the page is sent to the address that names the model."""
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(403, "another site's page may not read this server")  # by a name of its own for 127.0.0.1
            return None
        address = urlsplit(self.path)
        if address.path == "/" and "model" not in parse_qs(address.query):
            self.send_response(302)
            rest = f"&{address.query}" if address.query else ""
            self.send_header("Location", f"/?model=model/{quote(self.folder.name)}{rest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        try:
            return super().send_head()
        except ValueError:  # of a path that no file can have
            self.send_error(404)
            return None

    def end_headers(self) -> None:
        """Add those that every file needs."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """There are no lists of files."""
        self.send_error(404)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file; a reader that goes away is not worth a traceback."""
        with contextlib.suppress(ConnectionError):
            super().copyfile(source, outputfile)

    def log_error(self, format: str, *args: object) -> None:
        """Name the request too; it is empty where nothing was understood."""
        self.log_message(f"{format}: %s", *args, self.requestline)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Files that are found are not worth a line."""


def problem(folder: Path) -> str | None:
    """A sentence where the page could not work."""
    if not (folder / "onnx" / "decoder.onnx").is_file():
        return f"{folder} has no onnx/decoder.onnx; give a folder that doge-export wrote"
    if not (PACKAGE / "index.js").is_file():
        return (
            f"{PACKAGE} is missing; run npm install --prefix javascript --ignore-scripts && "
            "npm run --prefix javascript assemble"
        )
    return None


def port_number(text: str) -> int:
    """The port that --port names; a sentence where it can be none."""
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_PORT):
        raise argparse.ArgumentTypeError(f"{text} is no port; it must be a whole number from 0 to {MOST_PORT}")
    return int(text)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="serve.py", description="Serve the chat page and a model on this machine.")
    parser.add_argument("folder", type=Path, help="one that doge-export wrote")
    parser.add_argument("--port", type=port_number, default=8000, help="8000 by default; 0 takes a free one")
    args = parser.parse_args()
    fault = problem(args.folder)
    if fault:
        parser.error(fault)
    Handler.folder = args.folder.resolve()
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    except OSError as error:
        parser.error(f"port {args.port} cannot be used ({error.strerror}); give another with --port")
    print(f"{Handler.folder.name}: http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    sys.exit(0)


if __name__ == "__main__":
    main()
