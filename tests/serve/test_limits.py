"""Bounds: a queue, sizes, times, a key; and clients that leave."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from doge_export.errors import OptionError
from doge_export.runtime.model import Model
from doge_export.serve import limits as limits_module
from doge_export.serve import server as server_module
from doge_export.serve.limits import Limits, is_allowed
from doge_export.serve.server import bound_socket
from tests.helpers.serving import NAME, bigram_model, served, wait_until

LONG: dict[str, Any] = {"model": NAME, "prompt": "Hello", "max_tokens": 100_000, "ignore_eos": True}
SHORT: dict[str, Any] = {"model": NAME, "prompt": "Hello", "max_tokens": 2}


@pytest.fixture
def model() -> Model:
    """Takes a second for a hundred tokens."""
    return bigram_model(max_streams=2, slow=True)


def running(address: str) -> dict[str, float]:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("doge_streams_")]
    return {name.partition("{")[0].removeprefix("doge_streams_"): float(value) for name, value in pairs}


def raw(address: str, body: dict[str, Any]) -> socket.socket:
    """A connection that has asked for completions."""
    host, _, port = address.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_says_when_to_try_again_and_clients_that_leave_make_room(stream: bool, model: Model) -> None:
    with served({NAME: model}, Limits(max_streams=2, max_queue=1)) as address:
        clients = [raw(address, LONG | {"stream": stream}) for _ in range(3)]
        wait_until(lambda: running(address) == {"running": 2, "waiting": 1})
        refused = httpx.post(f"{address}/v1/completions", json=SHORT)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        for client in clients:
            client.close()
        wait_until(lambda: running(address) == {"running": 0, "waiting": 0})
        assert httpx.post(f"{address}/v1/completions", json=SHORT).status_code == 200
        fed = len(model.decoder.fed)  # type: ignore[attr-defined]  # a BigramDecoder
        time.sleep(0.1)
        assert len(model.decoder.fed) == fed  # type: ignore[attr-defined]  # nobody computes for clients that left


def test_those_who_wait_are_answered_in_their_turn(model: Model) -> None:
    with served({NAME: model}, Limits(max_streams=2, max_queue=10)) as address, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{address}/v1/completions", json=SHORT), range(12)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_ends_when_its_time_is_over(stream: bool, model: Model) -> None:
    with served({NAME: model}, Limits(max_streams=2, max_seconds=0.3)) as address:
        response = httpx.post(f"{address}/v1/completions", json=LONG | {"stream": stream})
        assert running(address)["running"] == 0
    text = response.text.removesuffix("\n\n").rpartition("data: ")[2] if stream else response.text
    assert "the answer took longer than 0.3 s" in json.loads(text)["error"]["message"]
    assert response.status_code == (200 if stream else 408)


def test_reading_a_request_counts_as_its_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(text: str) -> list[int]:
        time.sleep(1)
        return [0]

    monkeypatch.setattr(model.tokenizer, "encode", encode)
    with served({NAME: model}, Limits(max_streams=2, max_seconds=0.3)) as address:
        response = httpx.post(f"{address}/v1/completions", json=SHORT)
        assert response.status_code == 408 and response.elapsed.total_seconds() < 0.9
        assert running(address)["running"] == 0


def chunks() -> Iterator[bytes]:
    for _ in range(100):
        yield b" " * 1000


@pytest.mark.parametrize("content", [b" " * 2001, chunks()], ids=["told", "in chunks"])
def test_a_body_that_is_too_large_is_refused(content: Any, model: Model) -> None:
    with served({NAME: model}, Limits(max_body_bytes=2000)) as address:
        response = httpx.post(
            f"{address}/v1/completions", content=content, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413
    assert "the body is larger than 2,000 bytes" in response.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_refused(model: Model) -> None:
    with served({NAME: model}, Limits(max_prompt_tokens=4)) as address:
        response = httpx.post(f"{address}/v1/completions", json=SHORT)
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["message"] == "prompt makes 5 tokens, and the server takes 4; give less"


@pytest.mark.parametrize(
    "begun", [b"", b"POST /v1/comple", b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_client_that_says_nothing_is_left(begun: bytes, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(limits_module, "BODY_SECONDS", 0.2)
    with served({NAME: model}) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(begun)
            answer = connection.recv(10_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_only_the_key_opens_the_door(model: Model) -> None:
    with served({NAME: model}, key="secret") as address:
        for path in ("/v1/models", "/metrics", "/", "/openapi.json", "/reports/x", "/nothing"):
            response = httpx.get(address + path)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        assert httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert httpx.get(address, auth=("anybody", "secret")).status_code == 200
        assert httpx.post(f"{address}/v1/completions", json=SHORT).status_code == 401


@pytest.mark.parametrize("second", [b"", b"GET /health HTTP/1.1\r\nX: "])
def test_a_second_request_on_a_connection_has_as_little_time(
    second: bytes, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.4)
    with served({NAME: model}) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=0.1) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            ends, start = time.monotonic() + 5, time.monotonic()
            while time.monotonic() < ends:  # a byte of the second one now and then
                try:
                    if not connection.recv(10_000):
                        break
                    connection.sendall(second)
                except TimeoutError:
                    connection.sendall(b"a" if second else b"")
                except ConnectionError:
                    break
    assert 0.3 < time.monotonic() - start < 2


def test_an_answer_may_take_longer_than_the_header_of_its_request(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.3)
    with served({NAME: model}) as address, httpx.Client() as client:
        for _ in range(2):
            answer = client.post(f"{address}/v1/completions", json=LONG | {"max_tokens": 60})
            assert answer.status_code == 200 and answer.elapsed.total_seconds() > 0.4


@pytest.mark.parametrize(
    "header",
    [
        "",
        "schlüssel",
        "Bearer",
        "Bearer ",
        "Bearer schlüsse",
        "Bearer schlüssels",
        "Bearer schlussel",
        "Basic c2No",
        "Basic ?",
    ],
)
def test_anything_but_the_key_is_refused(header: str) -> None:
    assert not is_allowed(header.encode(), "schlüssel")


@pytest.mark.parametrize(
    "header", ["Bearer schlüssel", "bearer  schlüssel ", "Basic " + base64.b64encode(":schlüssel".encode()).decode()]
)
def test_the_key_is_let_in(header: str) -> None:
    assert is_allowed(header.encode(), "schlüssel")


def test_a_second_server_on_a_port_is_told_so() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OptionError, match=f"port {port} of 127.0.0.1 is taken, perhaps by another doge-serve"):
            bound_socket("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 70])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(OptionError, match="which is no address of this machine"):
        bound_socket(host, 0)


def test_no_answer_is_lost_when_clients_are_killed(model: Model) -> None:
    ask = "import sys, urllib.request as r; q = r.Request(sys.argv[1], sys.argv[2].encode(), "
    ask += "{'Content-Type': 'application/json'}); r.urlopen(q).read()"
    with served({NAME: model}, Limits(max_streams=2)) as address:
        url, body = f"{address}/v1/completions", json.dumps(LONG)
        killed = [subprocess.Popen(["python", "-c", ask, url, body]) for _ in range(3)]
        wait_until(lambda: running(address)["running"] == 2)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(httpx.post, url, json=SHORT, timeout=20) for _ in range(4)]
            for client in killed:
                client.kill()
                client.wait()
            assert {answer.result().status_code for answer in answers} == {200}
        wait_until(lambda: running(address) == {"running": 0, "waiting": 0})
