"""Recipes: the numbers they store, how those were rounded, and a graph that computes with them."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import dequantize, quantize
from torch import Tensor

from doge_export.errors import ExportError, OptionError
from doge_export.export.decoder_files import fold_model
from doge_export.export.pipeline import export
from doge_export.graph import Plan
from doge_export.graph.blocks import BLOCK_SIZES, BlockQuantized, choose_block_size, packed, quantize_blocks, unpacked
from doge_export.graph.folding import Matrix
from doge_export.graph.matmul import stored_values
from doge_export.measure.verification import verify
from doge_export.options import ExportOptions
from doge_export.quantization.gguf_blocks import block_quantized, gguf_plan
from doge_export.quantization.gptq import gptq, nearest
from doge_export.quantization.layer_by_layer import calibrated_plan, give_stored_numbers
from doge_export.quantization.rounding import plan_bytes, simple_plan
from doge_export.quantization.sensitivity import Rows, choose_wide, rounding_losses
from doge_export.quantization.state_scales import scale_sequences
from doge_export.recipes import RECIPES
from doge_export.runtime.decoder import Decoder
from doge_export.texts.calibration import BUILT_IN, calibration_sequences
from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.gguf import GgufFile
from tests.helpers.checkpoints import add_byte_level_tokenizer, byte_level_llama, save_gguf, tiny_llama
from tests.helpers.models import (
    FORMS,
    random_ids,
    relative_difference,
    tiny_model,
    tokenizer_of,
    torch_logits,
    write_model,
)
from tests.helpers.products import product
from tests.measure.test_verification import checkpoint_of

SEQUENCES = torch.from_numpy(random_ids(8 * 64).reshape(8, 64))


def int4_plan(model: DogeForCausalLM, bits: float = 6.0) -> Plan:
    folded = fold_model(model)
    wide = choose_wide(rounding_losses(model, SEQUENCES[:2], 0), folded.matrices, bits, folded.dimensions.has_mask)
    return calibrated_plan(model, folded, wide, SEQUENCES, lambda step: None)


def with_stored_numbers(model: DogeForCausalLM, plan: Plan) -> DogeForCausalLM:
    reference = copy.deepcopy(model)
    give_stored_numbers(reference, fold_model(model), plan)
    return reference


def correlated_inputs(columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(500, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return mixed * torch.rand(columns, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_graph_of_int4_says_what_its_stored_numbers_say(form: str, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form])
    plan = int4_plan(model)
    write_model(model, "int4", tmp_path, plan=plan)
    reference = with_stored_numbers(model, plan)
    verification = verify(checkpoint_of(reference), Decoder(tmp_path, threads=1), "int4")
    verification.require()
    assert verification.worst.centered_rms_error < 0.05  # the 8-bit activations'
    assert relative_difference(torch_logits(model, random_ids(40)), torch_logits(reference, random_ids(40))) > 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:prompt lookup and assistants are off")
def test_int4_checks_drafts_bit_by_bit_or_where_the_processor_cannot_not_at_all(tmp_path: Path) -> None:
    model = tiny_model()
    write_model(model, "int4", tmp_path, plan=int4_plan(model))
    decoder, ids = Decoder(tmp_path, threads=1, operators=False), random_ids(28)
    drafted, single = decoder.new_state(), decoder.new_state()
    for state in (drafted, single):
        decoder.forward(state, ids[:20])
    steps = [decoder.forward(single, ids[i : i + 1])[-1].copy() for i in range(20, 28)]
    np.testing.assert_array_equal(decoder.check_draft(drafted, ids[20:]), steps)
    alike = rows_are_alike_in_any_company(bits=4, block_size=32)
    assert decoder.room_for_draft(drafted) == (7 if alike else 0)
    if alike:
        np.testing.assert_array_equal(decoder.check_draft(drafted, ids[20:]), steps)


@pytest.mark.parametrize("block_size", BLOCK_SIZES[8])
def test_a_row_in_8_bits_is_alike_in_any_company_on_every_processor(block_size: int) -> None:
    assert rows_are_alike_in_any_company(8, block_size)


def rows_are_alike_in_any_company(bits: int, block_size: int) -> bool:
    """Is a row's product, to the last bit, the same alone and beside others? onnxruntime has a kernel per processor."""
    session = product(bits, block_size)
    x = np.random.default_rng(1).standard_normal((8, session.get_inputs()[0].shape[1])).astype(np.float32)
    apart = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    return np.array_equal(session.run(None, {"x": x})[0], apart)


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_moves_a_product_less_than_rounding_to_the_nearest(bits: int) -> None:
    weight, x = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)), correlated_inputs(64)
    rounded = gptq(weight, x.T @ x / len(x), bits, 32), nearest(weight, bits, 32)
    by_gptq, by_nearest = (
        float((x @ (torch.from_numpy(q.dequantize(64)) - weight).T).square().mean()) for q in rounded
    )
    assert by_gptq < 0.7 * by_nearest


def test_gptq_with_independent_inputs_rounds_to_the_nearest() -> None:
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    np.testing.assert_array_equal(gptq(weight, torch.eye(32), 4, 16).data, nearest(weight, 4, 16).data)


def test_gptq_gives_the_same_codes_however_many_columns_it_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)), correlated_inputs(64)
    codes = []
    for columns in (10, 64):
        monkeypatch.setattr("doge_export.quantization.gptq.LAZY", columns)
        codes.append(unpacked(gptq(weight, x.T @ x / len(x), 4, 32).data, 4))
    assert np.mean(codes[0] != codes[1]) < 0.01  # sums in another order, in float32


def test_four_bits_are_a_16th_of_a_block_s_range_apart() -> None:
    weight = torch.linspace(-1, 14, 16)[None].repeat(1, 2)
    quantized = nearest(weight, 4, 32)
    assert quantized.zero_points is not None
    assert unpacked(quantized.data, 4)[0, 0].tolist() == [*range(16), *range(16)]
    assert unpacked(quantized.zero_points, 4)[0].tolist() == [1, 0]  # and the padding
    np.testing.assert_array_equal(quantized.dequantize(32), weight.numpy())


def test_two_codes_share_a_byte_the_first_one_lowest() -> None:
    codes = np.array([[1, 15, 7]], np.uint8)
    assert packed(codes, 4).tolist() == [[0xF1, 0x07]]
    assert unpacked(packed(codes, 4), 4)[:, :3].tolist() == codes.tolist()


def test_scales_too_small_for_float16_stay_float32() -> None:
    tiny = np.full((1, 32), 2.0**-40, np.float32)
    assert quantize_blocks(tiny, float16=True).scales.dtype == np.float32
    assert gptq(torch.from_numpy(tiny), torch.eye(32), 8, 32).scales.dtype == np.float32
    np.testing.assert_allclose(gptq(torch.from_numpy(tiny), torch.eye(32), 4, 32).dequantize(32), tiny)


@pytest.mark.slow
def test_rounding_by_the_same_seed_gives_the_same_numbers() -> None:
    first, second = (int4_plan(tiny_model()) for _ in range(2))
    for storage, parts in first.items():
        for one, other in zip(parts, second[storage], strict=True):
            assert isinstance(one, BlockQuantized) and isinstance(other, BlockQuantized)
            np.testing.assert_array_equal(one.data, other.data)
            np.testing.assert_array_equal(one.scales, other.scales)


@pytest.mark.slow
def test_the_measured_loss_is_what_rounding_that_matrix_alone_costs() -> None:
    """To second order; in the last layer, where a change at one token stays with that token."""
    model = tiny_model()
    model.lm_head.weight.data.mul_(0.3)  # a divergence small enough for its second order
    losses, changed = rounding_losses(model, SEQUENCES, 0), copy.deepcopy(model)
    weight = changed.get_parameter("model.layers.1.mlp.down_proj.weight")
    size = choose_block_size(weight.shape[1], 4)
    weight.data = torch.from_numpy(nearest(weight.data, 4, size, search=False).dequantize(weight.shape[1]))
    costs = []
    for ids in SEQUENCES.numpy():
        before, after = (torch.from_numpy(torch_logits(m, ids)).log_softmax(-1) for m in (model, changed))
        costs.append(float((before.exp() * (before - after)).sum(-1).mean()))
    assert losses[Rows("layers.1.mlp.down_proj", "down")] == pytest.approx(np.mean(costs), rel=0.3)


def test_the_rows_that_save_most_by_the_byte_get_wide_until_the_bits_are_spent() -> None:
    matrices = {"a": Matrix(np.zeros((2, 32), np.float32), {"q": 1, "v": 1})}
    matrices["b"] = Matrix(np.zeros((4, 32), np.float32), {"down": 4})
    losses = {Rows("a", "q"): 1.0, Rows("a", "v"): 3.0, Rows("b", "down"): 8.0}
    assert choose_wide(losses, matrices, 4.7, has_mask=False) == set()
    assert choose_wide(losses, matrices, 5.3, has_mask=False) == {Rows("a", "v")}
    assert choose_wide(losses, matrices, 8.25, has_mask=False) == set(losses)
    assert choose_wide(losses, matrices, 4.7, has_mask=True) == {Rows("a", "v")}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weights", ["int8", "int4", "fp16", "fp32"])
def test_a_file_has_the_bytes_that_its_bits_call_for(weights: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(hidden_size=128, intermediate_size=256, vocab_size=2000, tie_word_embeddings=tied)
    model.model.layers.requires_grad_(False)
    plan = int4_plan(model) if weights == "int4" else simple_plan(fold_model(model).matrices, RECIPES[weights])
    write_model(model, weights, tmp_path, plan=plan)
    table = 4 * model.config.vocab_size * model.config.num_mask_heads  # the first layer's mask logits
    written = (tmp_path / "onnx" / "model.onnx_data").stat().st_size
    assert 0.99 < written / (plan_bytes(plan) + table) < 1.02
    bits = 8 * plan_bytes(plan) / sum(m.weight.size for m in fold_model(model).matrices.values())
    assert {"int8": 8.5, "int4": 7.3, "fp16": 16.2, "fp32": 32}[weights] * 1.02 > bits


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_fp16_keeps_the_tiny_numbers_of_precedence(form: str) -> None:
    model = tiny_model(**FORMS[form])
    for storage, parts in simple_plan(fold_model(model).matrices, RECIPES["fp16"]).items():
        weight = fold_model(model).matrices[storage].weight
        np.testing.assert_allclose(stored_values(parts, weight.shape[1]), weight, rtol=1e-3, atol=2**-24)
        for part in parts:
            assert isinstance(part, np.ndarray)
            assert part.dtype == np.float32 or not np.any((part != 0) & (np.abs(part) < 1e-9))


def test_numbers_beyond_float16_are_refused() -> None:
    model = tiny_model()
    model.get_parameter("model.layers.0.mlp.down_proj.weight").data[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"mlp\.down_proj has numbers beyond 65504"):
        simple_plan(fold_model(model).matrices, RECIPES["fp16"])


NO_TEXT = str(Path(__file__).parents[2] / "checkpoints" / "doge-tiny" / "model.safetensors")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bits of int8": ({"bits": 5.0}, "bits goes with int4"),
    "a text for fp32": ({"weights": "fp32", "calibration": "x"}, "calibration goes with int4"),
    "two ways to choose": ({"weights": "int4", "bits": 5.0, "wide": ("v",)}, "bits and wide exclude each other"),
    "too few bits": ({"weights": "int4", "bits": 4.0}, "from 4.625 to 8.25"),
    "an unknown role": ({"weights": "int4", "wide": ("v", "gate")}, "wide is 'gate'; it must be one of q, k, v"),
    "an unknown recipe": ({"weights": "int3"}, "it must be one of int8, int4, fp16, fp32, keep-grid"),
    "the grid of a folder": ({"weights": "keep-grid"}, "keeps the numbers of a .gguf file"),
    "no tokens": ({"weights": "int4", "calibration_tokens": 0}, "calibration_tokens is 0"),
    "a negative seed": ({"weights": "int4", "seed": -1}, "seed is -1"),
    "a seed of 65 bits": ({"weights": "int4", "seed": 2**64}, "from 0 to 2\\^64 - 1"),
    "a text that is not there": (
        {"weights": "int4", "calibration": "no.txt"},
        "the calibration text no.txt is missing",
    ),
    "an empty name of a text": ({"weights": "int4", "calibration": " "}, "calibration is empty"),
    "a weight file as text": ({"weights": "int4", "calibration": NO_TEXT}, "calibration text .* cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_combinations_are_refused_before_anything_is_read(case: str, tmp_path: Path) -> None:
    fields, message = REFUSED[case]
    with pytest.raises(OptionError, match=message):
        ExportOptions("no such model", tmp_path / "out", **fields)


def test_blocks_with_offsets_mean_what_they_say() -> None:
    block = BlockQuantized(
        packed(np.arange(16, dtype=np.uint8)[None, None], 4),
        np.array([[0.5]], np.float16),
        4,
        offsets=np.array([[-2.0]], np.float16),
    )
    assert block.dequantize(16)[0].tolist() == [0.5 * code - 2 for code in range(16)]
    assert dataclasses.replace(block, offsets=None).dequantize(16)[0, 8] == 0


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0], ids=lambda kind: kind.name)
def test_blocks_of_a_gguf_file_stand_for_the_same_numbers_to_the_last_bit(kind: Kind) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    rows = quantize(weight, kind)
    np.testing.assert_array_equal(block_quantized(kind.name, rows).dequantize(64), dequantize(rows, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0], ids=lambda kind: kind.name)
def test_a_file_s_own_grid_is_kept(kind: Kind, tmp_path: Path) -> None:
    llama = tiny_llama(tie_word_embeddings=True, head_dim=16)
    source = save_gguf(tmp_path / "model.gguf", llama, kind)
    export(ExportOptions(str(source), tmp_path / "out", "keep-grid"))
    model = load_checkpoint(source).model
    matrices, plan = fold_model(model).matrices, gguf_plan(GgufFile(source), fold_model(model))
    for storage, parts in plan.items():
        np.testing.assert_array_equal(stored_values(parts, matrices[storage].weight.shape[1]), matrices[storage].weight)


def test_a_grid_with_offsets_is_multiplied_as_it_is_stored(tmp_path: Path) -> None:
    model = tiny_model(intermediate_size=64)
    plan = dict(simple_plan(fold_model(model).matrices, RECIPES["int8"]))
    for storage, matrix in fold_model(model).matrices.items():
        if storage.startswith("layers.1.mlp"):
            plan[storage] = (block_quantized("Q4_1", quantize(matrix.weight, Kind.Q4_1)),)
    write_model(model, "keep-grid", tmp_path, plan=plan)
    reference = with_stored_numbers(model, plan)
    worst = verify(checkpoint_of(reference), Decoder(tmp_path, threads=1), "keep-grid").worst
    assert worst.centered_rms_error < 0.05


def test_a_grid_of_another_kind_is_refused(tmp_path: Path) -> None:
    source = save_gguf(tmp_path / "model.gguf", tiny_llama(), Kind.Q5_0)
    with pytest.raises(ExportError, match=r"keeps Q4_0, Q4_1, Q8_0 .*, but model.embed_tokens.weight is Q5_0"):
        export(ExportOptions(str(source), tmp_path / "out", "keep-grid"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def talker(tmp_path: Path) -> Checkpoint:
    """A tiny Llama with a tokenizer of bytes, and a text."""
    source = save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add_byte_level_tokenizer)
    (tmp_path / "text.txt").write_text("".join(f"The {i}th wave ate another castle. " for i in range(300)))
    return load_checkpoint(source)


def test_pieces_of_a_text_are_drawn_by_a_seed(talker: Checkpoint, tmp_path: Path) -> None:
    text = str(tmp_path / "text.txt")
    first, same, other = (calibration_sequences(talker, text, 512, seed) for seed in (0, 0, 1))
    length = talker.model.config.keep_window_size
    assert first.shape == (512 // length, length)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_a_state_in_8_bits_takes_its_scales_from_the_text_that_was_given(talker: Checkpoint, tmp_path: Path) -> None:
    text = str(tmp_path / "text.txt")
    given, built_in = (scale_sequences(talker, source, 0) for source in (text, None))
    vocabulary = {i for piece in given[:-1] for i in piece.tolist()}
    assert vocabulary == set(
        tokenizer_of(talker)((tmp_path / "text.txt").read_text(), add_special_tokens=False).input_ids
    )
    assert np.array_equal(given[-1], built_in[-1])  # random tokens
    assert not np.array_equal(given[0], built_in[0])
    assert ExportOptions(talker.source, tmp_path / "out", "int8", kv_int8=True, calibration=text).calibration == text


def test_the_built_in_text_is_not_the_one_that_exports_are_measured_on() -> None:
    texts = BUILT_IN.parent
    alice, calibration = ((texts / name).read_text(encoding="utf-8") for name in ("alice.txt", "calibration.txt"))
    assert BUILT_IN.name == "calibration.txt"
    paragraphs = {p for p in alice.split("\n\n") if len(p) > 40}
    assert paragraphs.isdisjoint(calibration.split("\n\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"too short", "has 9 tokens; give one of at least 256"),
        (b"\xff" * 999, "cannot be read"),
        (None, "there is no file"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(
    text: bytes | None, message: str, talker: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "calibration"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(OptionError, match=message):
        calibration_sequences(talker, str(path), 512, 0)


def test_a_dataset_in_a_folder_is_a_text(talker: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "TRAIN.JSONL"):
        (tmp_path / "data" / name).write_text('{"text": "Waves, and castles. "}\n' * 100)
        assert calibration_sequences(talker, str(tmp_path / "data" / name), 512, 0).numel() == 512
    (tmp_path / "data" / "TRAIN.JSONL").unlink()
    assert calibration_sequences(talker, str(tmp_path / "data"), 512, 0).numel() == 512


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"words": "Waves"}\n', "has the columns words; one of them must be called text"),
        ('{"text": "Waves"}\n{"text": null}\n', "the text in row 2 of dataset .* is None; it must be a string"),
        ('{"text": "Waves"}\n{"text": \n', "cannot be loaded: JSON parse error"),
        ("", "cannot be loaded: it holds nothing; give"),
        ('{"text": ""}\n' * 300, "has 0 tokens"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_named(rows: str, message: str, talker: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text(rows)
    with pytest.raises(OptionError, match=message):
        calibration_sequences(talker, str(tmp_path / "train.jsonl"), 512, 0)


@pytest.mark.slow
def test_an_export_in_4_bits_reports_what_it_did(talker: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ExportOptions(talker.source, out, "int4", bits=6.0, calibration=str(tmp_path / "text.txt"))
    storage = export(options).storage
    assert storage.calibration is not None and storage.calibration.tokens > 256
    assert storage.wide
    report = json.loads((out / "export_report.json").read_text())
    assert report["storage"]["wide"] == list(storage.wide)
    assert report["storage"]["calibration"] == dataclasses.asdict(storage.calibration)
    assert (report["options"]["bits"], report["options"]["out"]) == (6.0, str(out))
    named = export(dataclasses.replace(options, overwrite=True, bits=None, wide=("v",))).storage
    assert {rows.split()[1] for rows in named.wide} == {"v"}
