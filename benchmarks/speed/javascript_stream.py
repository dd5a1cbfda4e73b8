"""Do time per token and memory stay constant in JavaScript, however long a stream gets?

python -m benchmarks.speed.javascript_stream checkpoints/doge-20m-10min-int8
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.results import announce, finish

SCRIPT = Path(__file__).with_suffix(".mjs")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--provider", type=click.Choice(["cpu", "wasm"]), default="wasm", show_default=True)
@click.option("--tokens", type=click.IntRange(100), default=30_000, show_default=True)
@click.option("--parts", type=click.IntRange(1), default=6, show_default=True, help="Lines of the result.")
@options.json_file
def main(folder: Path, provider: str, tokens: int, parts: int, out: Path | None) -> None:
    """Let FOLDER write one long text."""
    announce()
    node = shutil.which("node")
    if node is None:
        raise click.UsageError("node is not installed; install Node 20 or newer")
    command = [node, str(SCRIPT), str(folder), provider, str(tokens), str(parts)]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "it was asked for a pipe"
        for line in process.stdout:
            rows.append(json.loads(line))
            click.echo(
                f"{rows[-1]['tokens']:7,} tokens  {rows[-1]['ms_per_token']:6.2f} ms a token  "
                f"{rows[-1]['rss_mb']:6.0f} MB resident  {rows[-1]['heap_mb']:6.0f} MB of heap"
            )
    if process.returncode:
        raise click.ClickException(f"node ended with exit status {process.returncode}; its message stands above")
    finish({"folder": folder.name, "provider": provider, "rows": rows}, out)


if __name__ == "__main__":
    main()
