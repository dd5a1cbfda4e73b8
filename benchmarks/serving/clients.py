"""A server in a process of its own, and clients that stream its answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

READY = "says how to call it"


@dataclass(frozen=True)
class Streamed:
    """An answer as a client has seen it: its text, its tokens, and seconds until the first piece and the end.

    tokens: as the server counts them; the pieces of text where it does not, as llama-cpp-python's.
    """

    text: str
    tokens: int
    first: float
    seconds: float


@dataclass(frozen=True)
class Server:
    """A running server: its address and the id of its process."""

    address: str
    pid: int

    @property
    def megabytes(self) -> float:
        """Memory that the process has now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def figure(self, name: str) -> float:
        """The sum of a figure of /metrics over all models."""
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


@contextmanager
def doge_serve(folder: Path, *options: str) -> Iterator[Server]:
    """doge-serve of an exported folder, ended at the end."""
    call = [sys.executable, "-m", "doge_export.commands.serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        while READY not in line:
            last, line = line, process.stderr.readline()
            if not line:
                raise RuntimeError(f"doge-serve has not started: {last.strip()}")
        found = re.search(r"http://\S+:\d+", line)
        assert found is not None
        yield Server(found[0], process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def other_server(call: Sequence[str]) -> Iterator[str]:
    """The base URL of another server of OpenAI's interface, ended at the end. call: takes --host and --port besides.

    It has started once it answers; RuntimeError where it ends before.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as words:
        started = [*call, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(started, stdout=words, stderr=words)
        try:
            while not answers(f"http://127.0.0.1:{port}/v1/models"):
                if process.poll() is not None:
                    words.seek(0)
                    raise RuntimeError(f"{call[0]} has not started: {words.read()[-1000:]!r}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def answers(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


async def stream(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Streamed:
    """Ask for completions as a stream, and read it to its end. RuntimeError for a stream that breaks off."""
    start, first, text, tokens, pieces, done = time.perf_counter(), 0.0, "", 0, 0, False
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", url, json=asked) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            prefix, _, data = line.partition(": ")  # without one it is a comment, by which some servers show they live
            if prefix == "data" and data == "[DONE]":
                done = True
            elif prefix == "data":
                event = json.loads(data)
                first = first or time.perf_counter() - start
                new = "".join(choice["text"] for choice in event.get("choices", []))
                text, pieces = text + new, pieces + bool(new)
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not done:
        raise RuntimeError(f"a stream broke off after {text!r}")
    return Streamed(text, tokens or pieces, first, time.perf_counter() - start)
