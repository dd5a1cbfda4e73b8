"""How fast is doge-serve beside llama.cpp's two servers, asked by the same clients?

    python -m benchmarks.serving.llama smollm2-135m-int8 --python llama/bin/python
    python -m benchmarks.serving.llama smollm2-135m-int8 --python llama/bin/python --llama-server build/bin/llama-server

The model is the demo, which llama.cpp requantizes to Q8_0 itself. `--python` names an environment with
`llama-cpp-python[server]`, whose server answers one request at a time and by default breaks it off for the next. Here
it is told not to. `--llama-server` names llama.cpp's own, which answers all clients at once (`-np`). A random Llama of
the family has no tokenizer, so neither can serve one.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.serving.clients import doge_serve, other_server
from benchmarks.serving.speed import Contender, compared
from doge_model.gguf import demo_gguf_path

CONTEXT = 512  # tokens of a stream
REQUANTIZE = """
import sys
from pathlib import Path
from benchmarks.common.llama import requantize
requantize(Path(sys.argv[1]), "Q8_0", Path(sys.argv[2]))
"""


@contextmanager
def demo_in_8_bits(python: Path) -> Iterator[Path]:
    """The demo at Q8_0, as long as it is needed. python: of an environment with llama-cpp-python."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.gguf"
        subprocess.run([str(python), "-c", REQUANTIZE, str(demo_gguf_path()), str(path)], check=True)
        yield path


def call_of_python(python: Path, model: Path, threads: int) -> list[str]:
    """llama-cpp-python's server, which lets a request end before the next."""
    call = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", str(CONTEXT)]
    both = ["--n_threads", str(threads), "--n_threads_batch", str(threads)]
    return [*call, *both, "--interrupt_requests", "false", "--verbose", "false"]


def call_of_binary(binary: Path, model: Path, threads: int, streams: int) -> list[str]:
    """llama.cpp's own server with a place for each client."""
    call = [str(binary), "--model", str(model), "--ctx-size", str(CONTEXT * streams), "--parallel", str(streams)]
    return [*call, "--threads", str(threads), "--threads-batch", str(threads), "--no-webui"]


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--python", type=click.Path(exists=True, path_type=Path), required=True, help="With llama_cpp.server.")
@click.option("--llama-server", type=click.Path(exists=True, path_type=Path), help="The binary.")
@click.option("--clients", type=options.numbers, default="1,8", show_default=True, help="Numbers of them.")
@click.option("--new-tokens", type=int, default=64, show_default=True, help="Of each answer.")
@click.option("--threads", type=int, default=2, show_default=True, help="Of each server's computation.")
@options.rounds(5)
@options.json_file
def main(
    folder: Path,
    python: Path,
    llama_server: Path | None,
    clients: tuple[int, ...],
    new_tokens: int,
    threads: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Compare servers of the demo in 8 bits."""
    announce()
    with ExitStack() as stack:
        model = stack.enter_context(demo_in_8_bits(python))
        ours = stack.enter_context(doge_serve(folder, "--max-streams", str(max(clients)), "--threads", str(threads)))
        contenders = [Contender("doge-serve", f"{ours.address}/v1/completions", folder.resolve().name)]
        calls = {"llama-cpp-python's server": call_of_python(python, model, threads)}
        if llama_server is not None:
            calls["llama-server"] = call_of_binary(llama_server, model, threads, max(clients))
        for name, call in calls.items():
            url = stack.enter_context(other_server(call))
            contenders.append(Contender(name, f"{url}/completions", "default"))
        rows = compared(contenders, clients, new_tokens, rounds)
    finish({"rounds": rounds, "threads": threads, "new_tokens": new_tokens, "rows": rows}, out)


if __name__ == "__main__":
    main()
