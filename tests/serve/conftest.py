"""A server of a model that answers at once, and OpenAI's client for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from doge_export.runtime.model import Model
from tests.helpers.serving import NAME, bigram_model, served


@pytest.fixture(scope="session")
def alone() -> Model:
    """The model by itself."""
    return bigram_model()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The address of its server."""
    with served({NAME: bigram_model(max_streams=8, cache_mb=50)}) as address:
        yield address


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    """The official client, which tries once only."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
