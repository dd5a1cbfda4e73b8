"""The exported decoder against the PyTorch model, for every form and every way of feeding it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from doge_export.errors import PackageError
from doge_export.measure.agreement import Agreement
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE, DECODER_FILE, RECURRENT_FILE
from tests.helpers.models import (
    FORMS,
    exported,
    random_ids,
    relative_difference,
    tiny_model,
    torch_logits,
    without_mask,
)

pytestmark = pytest.mark.usefixtures("each_way")

WINDOW = 64


def feed(decoder: Decoder, ids: NDArray[np.int64], lengths: list[int]) -> NDArray[np.float32]:
    """All logits of a sequence fed in pieces to a new state."""
    state = decoder.new_state()
    pieces = np.split(ids, np.cumsum(lengths)[:-1])
    return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


@pytest.mark.parametrize("form", FORMS)
def test_prompt_chunks_and_single_tokens_equal_pytorch(form: str, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form])
    decoder, ids = exported(model, tmp_path), random_ids(WINDOW)
    expected = torch_logits(model, ids)
    for lengths in ([WINDOW], [5, 1, 30, 28], [1] * WINDOW):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_int8_stays_close_to_pytorch_however_it_is_fed(form: str, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form])
    decoder, ids = exported(model, tmp_path, "int8"), random_ids(WINDOW)
    expected = torch_logits(model, ids)
    for lengths in ([WINDOW], [5, 1, 30, 28], [1] * WINDOW):
        agreement = Agreement.between(expected, feed(decoder, ids, lengths))
        assert agreement.centered_rms_error < 0.15
        assert agreement.kl_mean < 0.01


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 8, 16, 24]),
    mask_per_head=st.booleans(),
    qk_norm=st.booleans(),
    experts=st.sampled_from([None, (4, 1), (9, 9), (30, 7)]),
    tied=st.booleans(),
    split=st.integers(1, 19),
)
def test_any_shape_exports_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    kv_heads: int,
    groups: int,
    head_dim: int,
    mask_per_head: bool,
    qk_norm: bool,
    experts: tuple[int, int] | None,
    tied: bool,
    split: int,
) -> None:
    heads = kv_heads * groups
    fields: dict[str, Any] = (
        {"is_moe": True, "num_experts": experts[0], "num_experts_per_tok": experts[1]} if experts else {}
    )
    model = tiny_model(
        hidden_size=28,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        num_mask_heads=heads if mask_per_head else kv_heads,
        qk_norm=qk_norm,
        tie_word_embeddings=tied,
        **fields,
    )
    decoder, ids = exported(model, tmp_path_factory.mktemp("export")), random_ids(20)
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [split, 20 - split])) < 2e-5


def test_a_model_without_mask_has_no_mask_channel(tmp_path: Path) -> None:
    model = without_mask(tiny_model(qk_norm=False))
    decoder, ids = exported(model, tmp_path), random_ids(30)
    assert (decoder.description.channels, decoder.description.mask_channels) == (8, 0)
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [30])) < 5e-6


def test_the_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    sizes = {}
    for tied in (True, False):
        exported(tiny_model(tie_word_embeddings=tied, vocab_size=1000), tmp_path / str(tied), "int8")
        sizes[tied] = (tmp_path / str(tied) / DATA_FILE).stat().st_size
    assert sizes[False] - sizes[True] == pytest.approx(1000 * (32 + 4), abs=200)


@pytest.mark.parametrize("max_position", [63, 64])
def test_angles_beyond_the_training_are_computed_only_where_a_position_can_get_there(
    max_position: int, tmp_path: Path
) -> None:
    model = tiny_model(**FORMS["dynamic rope"], max_position_embeddings=max_position)
    decoder, ids = exported(model, tmp_path), random_ids(100)
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [50, 14, 36])) < 5e-6
    plain, recurrent = (onnx.load(tmp_path / file, load_external_data=False) for file in (DECODER_FILE, RECURRENT_FILE))
    assert ("Pow" in {node.op_type for node in plain.graph.node}) == (max_position < 64)
    assert "Pow" in {node.op_type for node in recurrent.graph.node}


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_every_large_matrix_is_stored_in_the_asked_width(weights: str, tmp_path: Path) -> None:
    exported(tiny_model(**FORMS["experts"], tie_word_embeddings=True), tmp_path, weights)
    graph = onnx.load(tmp_path / DECODER_FILE, load_external_data=False).graph
    matrices = {w.name: w for w in graph.initializer if len(w.dims) > 1 and np.prod(w.dims) >= 32 * 32}
    floats = {name for name, w in matrices.items() if w.data_type == onnx.TensorProto.FLOAT}
    assert ("lm_head.weight" in floats or "embed_tokens.weight" in floats) == (weights == "fp32")
    if weights == "int8":
        assert all("router" in name or "rotary" in name for name in floats)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 6, 7, 30, 70])
def test_so_many_last_rows_of_logits_are_those_of_all(count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The prompt goes through in two chunks, of 64 tokens, which fill the window, and of 6."""
    decoder, ids = exported(tiny_model(), tmp_path_factory.mktemp("export")), random_ids(70)
    every = decoder.forward(decoder.new_state(), ids, "all")
    np.testing.assert_array_equal(decoder.forward(decoder.new_state(), ids, count), every[-count:])


def test_truncated_and_copied_states_go_their_own_ways(tmp_path: Path) -> None:
    model = tiny_model()
    decoder, ids, other = exported(model, tmp_path), random_ids(12), random_ids(4, seed=1)
    state = decoder.new_state()
    decoder.forward(state, ids)
    branch = state.copy()
    branch.truncate(8)
    changed = decoder.forward(branch, other, "all").copy()
    assert relative_difference(torch_logits(model, np.append(ids[:8], other))[8:], changed) < 5e-6
    assert (
        relative_difference(torch_logits(model, np.append(ids, 3))[-1:], decoder.forward(state, np.array([3]))) < 5e-6
    )


def test_states_in_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    model = tiny_model()
    decoder = exported(model, tmp_path)
    sequences = [random_ids(40, seed) for seed in range(4)]
    results: dict[int, NDArray[np.float32]] = {}

    def work(index: int) -> None:
        results[index] = feed(decoder, sequences[index], [1] * 40)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, ids in enumerate(sequences):
        assert relative_difference(torch_logits(model, ids), results[index]) < 5e-6


def test_a_missing_or_damaged_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    exported(tiny_model(), tmp_path)
    data = tmp_path / DATA_FILE
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(PackageError, match=r"model\.onnx_data is damaged, or of another export"):
        Decoder(tmp_path)
    data.unlink()
    with pytest.raises(PackageError, match=r"model\.onnx_data is missing"):
        Decoder(tmp_path)


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    exported(tiny_model(), tmp_path)
    path = tmp_path / DECODER_FILE
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match=r"decoder\.onnx is damaged, or of another export than the other graphs"):
        Decoder(tmp_path)
