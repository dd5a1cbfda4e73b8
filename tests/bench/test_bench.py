"""doge-bench: what it measures and prints, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from doge_export.bench.ceiling import products_graph
from doge_export.commands.bench import main
from doge_export.export.random_model import export_random
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE

from ..helpers.models import exported, tiny_model

QUICK = ["--prompt-tokens", "5", "--new-tokens", "3", "--rounds", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny"
    exported(tiny_model(), path, "int8")
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_last_line_is_one_json_object_with_medians_within_their_spread(folder):
    done = run(folder, "--threads", 1, *QUICK)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["threads"], result["prompt_tokens"], result["new_tokens"], result["rounds"]) == (1, 5, 3, 2)
    for name, (low, high) in result["spread"].items():
        assert 0 < low <= result[name] <= high
    assert {"prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "start_ms", "peak_rss_mb"} < set(result["spread"])


def test_the_share_is_decoding_against_the_ceiling(folder):
    result = json.loads(run(folder, *QUICK[:-1], 1).stdout.splitlines()[-1])
    assert result["share_of_ceiling"] == pytest.approx(result["decode_tokens_per_s"] / result["ceiling_tokens_per_s"])


def test_the_machine_and_the_ceiling_come_before_the_figures(folder):
    lines = run(folder, *QUICK).stdout.splitlines()
    labels = [line.split()[0] for line in lines]
    assert labels[:3] == ["model", "cpu", "cores"]
    assert labels.index("threads") < labels.index("ceiling") < labels.index("decode_tokens_per_s")


def test_json_leaves_nothing_else_on_standard_output(folder):
    lines = run(folder, "--json", *QUICK).stdout.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["threads"] == Decoder(folder).threads


def test_nothing_is_written_to_the_folder(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(folder, *QUICK)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_the_ceiling_multiplies_every_matrix_of_a_step_once(tmp_path, weights):
    model = tiny_model()
    exported(model, tmp_path / "m", weights)
    graph, inputs, outputs = products_graph(tmp_path / "m" / DECODER_FILE)
    assert len(graph.graph.node) == len(outputs)
    whole = onnx.load(tmp_path / "m" / DECODER_FILE, load_external_data=False).graph
    constants = {tensor.name for tensor in whole.initializer}
    wide = [node for node in whole.node if "MatMul" in node.op_type and node.input[1] in constants]
    assert len(graph.graph.node) == len(wide)
    config = model.config  # the output matrix, and per layer at least attention's two and the MLP's two
    assert config.vocab_size in outputs.values()
    assert len(outputs) >= 4 * config.num_hidden_layers + 1
    assert set(inputs.values()) >= {config.hidden_size, config.intermediate_size}


def test_the_products_are_those_of_the_exported_weights(folder, tmp_path):
    graph, inputs, outputs = products_graph(folder / DECODER_FILE)
    onnx.load_external_data_for_model(graph, str((folder / DECODER_FILE).parent))
    session = ort.InferenceSession(graph.SerializeToString())
    rows = {name: np.zeros((1, 1, width), np.float32) for name, width in inputs.items()}
    assert all(np.isfinite(out).all() for out in session.run(None, rows))
    assert [out.shape[-1] for out in session.run(None, rows)] == list(outputs.values())


def test_without_onnx_the_ceiling_is_missing_and_said_to_be(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "doge_export.bench.ceiling", raising=False)
    done = run(folder, *QUICK)
    assert "pip install 'doge-export[bench]'" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ceiling_tokens_per_s"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either the FOLDER"),
        (["x", "--random", "20m"], "either the FOLDER"),
        (["--random", "20m", "--int8", "--fp32"], "exclude each other"),
        (["x", "--int8"], "go with --random"),
        (["x", "--threads", "0"], "threads is 0"),
        (["x", "--prompt-tokens", "0"], "prompt-tokens is 0"),
        (["x", "--rounds", "-1"], "rounds is -1"),
        (["nowhere"], "nowhere/onnx/decoder.onnx is missing"),
    ],
)
def test_bad_options_get_one_sentence(arguments, said):
    done = run(*arguments)
    assert done.exit_code in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_random_model_is_a_decoder_of_the_family_s_size(tmp_path):
    export_random("20m", "int8", tmp_path / "m")
    description = Decoder(tmp_path / "m").description
    assert (description.num_layers, description.num_kv_heads, description.vocab_size) == (8, 1, 32768)


def test_an_unknown_size_gets_one_sentence():
    done = run("--random", "21m", *QUICK)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: unknown model size '21m'; the family has Doge-20M")
