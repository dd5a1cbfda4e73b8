"""docs/decoder.md has every input and output of the decoder files, with type and shape."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import onnx
import pytest

from doge_export.graph import KeyValueScales
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.description import (
    DATA_FILE,
    DECODER_FILE,
    DRAFT_FILE,
    FORMAT_VERSIONS,
    LAYERED_FILE,
    METADATA_KEY,
    PORTABLE_FILE,
    RECURRENT_FILE,
    STEP_FILE,
    DecoderDescription,
)
from doge_export.runtime.eviction import TIE
from tests.helpers.models import random_ids, tiny_model, write_model

PAGE = (Path(__file__).parents[2] / "docs" / "decoder.md").read_text()
FILES = (DECODER_FILE, RECURRENT_FILE, DRAFT_FILE, PORTABLE_FILE)
# the page's names of sizes that a graph leaves open, and those that are numbers
OPEN = {"batch": "batch_size", "S": "sequence_length", "N": "num_logits", "slots": "slots", "R": "candidates"}
FIXED = {
    "layers": "num_layers",
    "kv_heads": "num_kv_heads",
    "heads": "num_recurrent_heads",
    "vocab": "vocab_size",
    "channels": "channels",
}
PORTABLE = OPEN | {"total": "total_sequence_length", "past": "past_sequence_length"}
PORTABLE |= {name: name for name in ("kv_heads", "channels")}

Tensors = dict[str, tuple[str, str]]  # type and shape by name


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The rows of the first table, without its head."""
    lines = text[text.index("\n|") :].split("\n\n", maxsplit=1)[0].strip().splitlines()
    rows = [line.strip().strip("|").split("|") for line in lines]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def page_tensors(file: str, part: str, cache_type: str) -> Tensors:
    """The tensors that the page gives a file: `part` is Inputs or Outputs."""
    column = 2 + FILES.index(file)
    found: Tensors = {}
    for row in table(section(part)):
        name, shape, kind = row[0], row[column], cache_type if "int8" in row[1] else row[1]
        if shape == "as the past":
            past = next(row for row in table(section("Inputs")) if row[0].startswith("past_key_values"))
            shape = past[column]
        if shape == "-" or (name.startswith("new_precedence") and cache_type == "float32"):
            continue
        for each in expanded(name):
            found[each] = (kind, shape)
    return found


def expanded(name: str) -> list[str]:
    """The name for two layers, and for seven links of the chain."""
    names = [name.replace("{i}", str(i)) for i in range(2 if "{i}" in name else 1)]
    return [each.replace("{j}", str(j)) for each in names for j in range(7 if "{j}" in each else 1)]


def resolved(shape: str, description: DecoderDescription) -> list[str | int]:
    """A shape of the page as a graph has it."""
    sizes = dataclasses.asdict(description)
    names = {name: sizes[field] for name, field in FIXED.items()} | OPEN
    return [int(part) if part.isdigit() else names[part] for part in filter(None, re.split(r"[\[\], ]+", shape))]


def graph_tensors(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, list[str | int]]]:
    """Type and shape by name."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        found[value.name] = (kind, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
    return found


@pytest.fixture(scope="module", params=FORMAT_VERSIONS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small decoder with more mask heads than kv heads, and the type of its state."""
    model, folder = tiny_model(qk_norm=False, num_mask_heads=4), tmp_path_factory.mktemp("decoder")
    scales: KeyValueScales | None = None
    if request.param == "int8":
        scales = measure_scales(model, [random_ids(48)])
    write_model(model, "fp32", folder, scales)
    return request.param, folder


@pytest.mark.parametrize("part", ["Inputs", "Outputs"])
@pytest.mark.parametrize("file", FILES[:3])
def test_the_page_has_every_tensor_of_a_file(decoder: tuple[str, Path], file: str, part: str) -> None:
    cache_type, folder = decoder
    model = onnx.load(folder / file, load_external_data=False)
    description = DecoderDescription.from_metadata({p.key: p.value for p in model.metadata_props}, folder / file)
    found = graph_tensors(list(model.graph.input if part == "Inputs" else model.graph.output))
    stated = page_tensors(file, part, cache_type)
    assert {name: (kind, resolved(shape, description)) for name, (kind, shape) in stated.items()} == found


def test_the_page_has_every_field_of_the_metadata() -> None:
    fields = {field.name for field in dataclasses.fields(DecoderDescription)} - {"adapter"}  # which is in no file
    assert {row[0] for row in table(section("Metadata"))} == fields
    assert f"`{METADATA_KEY}`" in section("Metadata")


def test_the_page_has_every_format_number() -> None:
    meaning = dict((row[0], row[1]) for row in table(section("Metadata")))["format_version"]
    found = {kind: int(number) for number, kind in re.findall(r"(\d+) with an? (\w+) state", meaning)}
    assert found == FORMAT_VERSIONS


def test_the_page_has_every_file() -> None:
    assert [row[0] for row in table(PAGE)] == [*FILES, STEP_FILE, LAYERED_FILE, DATA_FILE]


def test_the_page_has_the_portable_graph_s_inputs(decoder: tuple[str, Path]) -> None:
    model = onnx.load(decoder[1] / PORTABLE_FILE, load_external_data=False)
    found = graph_tensors(list(model.graph.input))
    stated = {
        each: (kind, [PORTABLE[part] for part in re.findall(r"\w+", shape)])
        for name, kind, shape in table(section("The portable graph"))
        for each in expanded(name)
    }
    assert stated == found


def test_the_page_has_the_width_of_a_tie() -> None:
    assert 2.0 ** -int(re.findall(r"TIE = 2\^-(\d+)", PAGE)[0]) == TIE
