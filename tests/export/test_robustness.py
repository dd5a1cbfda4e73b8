"""Loading says nothing, asks no network, and whatever a checkpoint holds is loaded or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils import logging as transformers_logging

from doge_common.errors import CheckpointError
from doge_model import load_checkpoint
from doge_model.config_fields import KIND_OF
from tests.helpers.checkpoints import (
    add_byte_level_tokenizer,
    byte_level_llama,
    edit_config,
    save_doge,
    save_gguf,
    save_tokenizer,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_doge(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))


def test_a_folder_loads_without_network_and_without_a_word(
    no_network: None, folder: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    save_tokenizer(folder)
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4, "unknown": 1}
    edit_config(folder, rope_parameters=rope, eos_token_id=10**6, tokenizer_class="LlamaTokenizer")
    capfd.readouterr()
    assert load_checkpoint(folder).tokenizer is not None
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_gguf_file_loads_without_network_and_without_a_word(
    no_network: None, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add_byte_level_tokenizer)
    capfd.readouterr()
    assert load_checkpoint(path).tokenizer is not None
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_the_verbosity_of_transformers_is_left_as_it_was(folder: Path) -> None:
    verbosity = transformers_logging.get_verbosity()
    load_checkpoint(folder)
    assert transformers_logging.get_verbosity() == verbosity


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from([*KIND_OF, "model_type", "hidden_bias", "dynamic_mask_ratio", "dtype"]), value=JSON)
def test_whatever_a_field_holds_the_checkpoint_loads_or_is_refused(field: str, value: Any, folder: Path) -> None:
    config = (folder / "config.json").read_text()
    edit_config(folder, **{field: value})
    try:
        load_checkpoint(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        (folder / "config.json").write_text(config)


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_whatever_bytes_of_a_gguf_file_are_damaged_it_loads_or_is_refused(
    damaged_gguf: tuple[Path, bytes], changes: list[tuple[float, int]]
) -> None:
    path, whole = damaged_gguf
    content = bytearray(whole)
    for share, byte in changes:
        content[int(share * min(len(content) - 1, 12_000))] = byte  # most of it metadata
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def damaged_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    save_gguf(path, byte_level_llama(), extra=add_byte_level_tokenizer)
    return path, path.read_bytes()
