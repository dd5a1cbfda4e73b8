"""Bytes that are no HTTP, or half of it: an error or a closed connection, and never a hang."""

from __future__ import annotations

import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest

from tests.helpers.serving import NAME

BODY = json.dumps({"model": NAME, "prompt": "Hello", "max_tokens": 2}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
ODD = [
    b"\0",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,  # TLS begins so
    b"GET " + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/models/%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    HEAD + b"Authorization: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    WHOLE * 5,
    CHUNKED,
]


def answer_to(address: str, sent: bytes) -> bytes:
    """All bytes that come back. A silent client sends no more; TimeoutError where no end comes."""
    host, _, port = address.removeprefix("http://").partition(":")
    received, is_open = b"", True
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(sent)
            while True:
                if is_open and not select.select([connection], [], [], 0.5)[0]:
                    connection.shutdown(socket.SHUT_WR)
                    is_open = False
                piece = connection.recv(65536)
                if not piece:
                    return received
                received += piece
        except ConnectionError:
            return received


def mutated(whole: bytes, seed: int) -> bytes:
    """A request with some bytes changed, left out or doubled."""
    rng = np.random.default_rng(seed)
    content = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(content)))
        match rng.integers(4):
            case 0:
                content[place] = rng.integers(256)
            case 1:
                del content[place : place + int(rng.integers(1, 30))]
            case 2:
                content[place:place] = rng.integers(256, size=rng.integers(1, 30)).astype(np.uint8).tobytes()
            case _:
                content = content[: place + 1]
    return bytes(content)


@pytest.mark.parametrize("sent", ODD, ids=range(len(ODD)))
def test_odd_bytes_are_answered_or_left(sent: bytes, address: str) -> None:
    assert b"HTTP/1.1 5" not in answer_to(address, sent)
    assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("whole", [WHOLE, CHUNKED], ids=["whole", "chunked"])
def test_broken_requests_are_answered_or_left(whole: bytes, address: str) -> None:
    broken = [mutated(whole, seed) for seed in range(200)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(partial(answer_to, address), broken))
    assert not [sent for sent, answer in zip(broken, answers, strict=True) if b"HTTP/1.1 5" in answer]
    assert b"HTTP/1.1 400" in {answer[:12] for answer in answers}
    assert answer_to(address, whole).startswith(b"HTTP/1.1 200")
    assert httpx.get(f"{address}/health").status_code == 200
