"""doge-serve: exported models over HTTP, by OpenAI's interface.

doge-serve FOLDER
doge-serve FOLDER FOLDER --port 8080 --api-key KEY
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ..errors import OptionError
from ..extras import needs_extra
from ..talk.notes import note, noted_warnings
from . import Command
from .missing_export import ExportedFolder, found_or_made

LOCAL = ("127.0.0.1", "::1", "localhost")


@click.command(cls=Command)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=ExportedFolder())
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key",
    envvar="DOGE_SERVE_API_KEY",
    metavar="KEY",
    help="Answer only requests that have it. The variable DOGE_SERVE_API_KEY hides it from the list of processes.",
)
@click.option(
    "--max-streams",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="Answers computed at a time, for each model.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    metavar="N",
    help="Answers that may wait; more are refused with 429.",
)
@click.option(
    "--cache-mb",
    type=click.FloatRange(0),
    default=256,
    show_default=True,
    metavar="N",
    help="Megabytes for beginnings of prompts, in all; 0 keeps none.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(1, 86_400),
    default=600,
    show_default=True,
    metavar="S",
    help="Longest time of a request.",
)
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(1),
    default=32_768,
    show_default=True,
    metavar="N",
    help="Longest prompt.",
)
@click.option("--threads", type=int, metavar="N", help="Threads of the computation (default: by the model's size).")
@click.option(
    "--reasoning-format",
    type=click.Choice(["none", "deepseek"]),
    default="none",
    show_default=True,
    help="A trace of reasoning in a chat's answer: none leaves it there, deepseek tells it as reasoning_content.",
)
def main(
    folders: tuple[Path, ...],
    host: str,
    port: int,
    api_key: str | None,
    max_streams: int,
    max_queue: int,
    cache_mb: float,
    max_seconds: float,
    max_prompt_tokens: int,
    threads: int | None,
    reasoning_format: Literal["none", "deepseek"],
) -> None:
    """Serve the exported models in FOLDERs, each by the name of its folder.

    Clients of OpenAI's interface find it below /v1; the page at / says how. It ends at Ctrl-C or a termination signal,
    once the answers under way are complete.
    """
    with needs_extra("serve", "doge-serve", OptionError):
        from ..serve.limits import Limits
        from ..serve.server import bound_socket, serve, url_of
        from ..serve.start import served_app
    if api_key is not None and not api_key.strip():
        raise OptionError("the API key is empty; give one, or leave --api-key and DOGE_SERVE_API_KEY out")
    if api_key is not None and api_key != api_key.strip():
        raise OptionError("the API key begins or ends with a space, which no header keeps; give it without")
    limits = Limits(max_streams, max_queue, max_seconds, max_prompt_tokens=max_prompt_tokens)
    bound = bound_socket(host, port)  # before models are loaded, which takes longer
    with noted_warnings():
        paths = [found_or_made(folder) for folder in folders]
        app = served_app(paths, limits, cache_mb, threads, api_key, reasoning_format)
    if api_key is None and host not in LOCAL:
        note(f"everybody who reaches {host} may use it; --api-key asks for a key.")
    note(f"{', '.join(app.state.models)}: {url_of(bound)}/ says how to call it. Ctrl-C ends it.")
    serve(app, bound, limits)


if __name__ == "__main__":
    main()
