"""doge-bench: its measurements, its lines and its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import numpy_helper

from doge_export.bench import probe
from doge_export.bench.ceiling import Products, products_graph
from doge_export.commands.bench import NO_CEILING, main
from doge_export.errors import OptionError, PackageError
from doge_export.export.random_model import export_random, write_random
from doge_export.extras import PACKAGES
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE
from tests.helpers.models import exported, tiny_model

TALKS = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
QUICK = ["--prompt-tokens", "5", "--new-tokens", "3", "--rounds", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny"
    exported(tiny_model(), path, "int8")
    return path


@pytest.fixture(autouse=True)
def one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doge_export.bench.measurement.STARTS", 1)  # a process takes a second


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_last_line_is_one_json_object_with_medians_within_their_spread(folder: Path) -> None:
    done = run(folder, "--threads", 1, *QUICK)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["threads"], result["prompt_tokens"], result["new_tokens"], result["rounds"]) == (1, 5, 3, 2)
    for name, (low, high) in result["spread"].items():
        assert 0 < low <= result[name] <= high
    assert {"prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "start_ms", "peak_rss_mb"} < set(result["spread"])


@pytest.mark.slow
def test_the_share_is_decoding_against_the_ceiling(folder: Path) -> None:
    result = json.loads(run(folder, *QUICK[:-1], 1).stdout.splitlines()[-1])
    assert result["share_of_ceiling"] == pytest.approx(result["decode_tokens_per_s"] / result["ceiling_tokens_per_s"])


@pytest.mark.slow
def test_the_machine_and_the_ceiling_come_before_the_figures(folder: Path) -> None:
    lines = run(folder, *QUICK).stdout.splitlines()
    labels = [line.split()[0] for line in lines]
    assert labels[:3] == ["model", "cpu", "cores"]
    assert labels.index("threads") < labels.index("ceiling") < labels.index("decode_tokens_per_s")


@pytest.mark.slow
def test_json_leaves_nothing_else_on_standard_output(folder: Path) -> None:
    lines = run(folder, "--json", *QUICK).stdout.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["threads"] == Decoder(folder).threads


@pytest.mark.slow
def test_nothing_is_written_to_the_folder(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(folder, *QUICK)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_the_ceiling_multiplies_every_matrix_of_a_step_once(tmp_path: Path, weights: str) -> None:
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


def stored_matrices(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 [width_out, width_in] matrices of a decoder file, by the name of their product."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if "MatMul" in node.op_type and node.input[1] in constants:
            weight = constants[node.input[1]]
            if node.op_type == "MatMulNBits":  # uint8 [N, blocks, block], 128 stands for zero; a scale for each block
                scales = constants[node.input[2]].reshape(*weight.shape[:2], 1)
                weight = ((weight.astype(np.float32) - 128) * scales).reshape(len(weight), -1)
            found[node.output[0]] = weight.T if node.op_type == "MatMul" else weight
    return found


@pytest.mark.parametrize(("weights", "error"), [("int8", 2e-2), ("fp32", 1e-5)])  # 8 bits round the row too
def test_the_products_are_those_of_the_exported_weights(weights: str, error: float, tmp_path: Path) -> None:
    exported(tiny_model(), tmp_path, weights)
    matrices = stored_matrices(tmp_path / DECODER_FILE)
    graph, inputs, outputs = products_graph(tmp_path / DECODER_FILE)
    onnx.load_external_data_for_model(graph, str((tmp_path / DECODER_FILE).parent))
    rng = np.random.default_rng(0)
    rows = {name: rng.standard_normal((1, 1, width), np.float32) for name, width in inputs.items()}
    found = ort.InferenceSession(graph.SerializeToString()).run(None, rows)
    assert list(outputs) == list(matrices)
    for row, matrix in zip(found, matrices.values(), strict=True):
        expected = next(rows[name] for name, width in inputs.items() if width == matrix.shape[1]) @ matrix.T
        assert np.linalg.norm(row - expected) < error * np.linalg.norm(expected)


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_the_exported_weights_are_the_model_s(weights: str, tmp_path: Path) -> None:
    model = tiny_model()
    exported(model, tmp_path, weights)
    matrices = stored_matrices(tmp_path / DECODER_FILE)
    down = model.get_parameter("model.layers.0.mlp.down_proj.weight")  # nothing is folded into this matrix
    assert matrices["layers.0.mlp.down_proj"] == pytest.approx(down.detach().numpy(), abs=1e-2)


def test_a_pass_computes_every_product(folder: Path) -> None:
    products = Products(folder, threads=1)
    _, _, outputs = products_graph(folder / DECODER_FILE)
    assert not any(products._arrays[name].any() for name in outputs)
    assert products.seconds(1) > 0
    computed = [output.numpy() for output in products._binding.get_outputs()]
    assert [array.shape[-1] for array in computed] == list(outputs.values())
    assert all(array.any() for array in computed)


def test_threads_that_cannot_be_are_refused_before_a_random_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doge_export.commands.bench.export_random", None)  # calling it would fail
    done = run("--random", "20m", "--threads", 100_000)
    assert (done.exit_code, "threads is 100000" in done.stderr) == (2, True)


def test_a_process_that_dies_is_named_with_its_exit_code_and_last_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=rf"nowhere ended with exit code 1: .*{DECODER_FILE} is missing; give"):
        probe.watch(tmp_path / "nowhere", 1, 5, 3)


def test_a_process_that_dies_ends_in_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\necho 7\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    done = run(folder, "--json", *QUICK)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"Error: the process that opens {folder} ended with exit code -9 (Killed) and gave no reason; "
        "it may need more memory than there is"
    ]


def test_a_process_that_says_nothing_or_does_not_start_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(PackageError, match=r"ended with exit code 0 and gave no reason"):
        probe.watch(folder, 1, 5, 3)
    program.write_bytes(b"\x7fELF of another processor")
    with pytest.raises(PackageError, match=r"python' cannot be started once more: Exec format error"):
        probe.watch(folder, 1, 5, 3)


@pytest.mark.slow
def test_without_onnx_the_ceiling_is_missing_and_said_to_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "doge_export.bench.ceiling", raising=False)
    done = run(folder, *QUICK)
    assert done.stderr.splitlines() == [NO_CEILING]
    assert json.loads(done.stdout.splitlines()[-1])["ceiling_tokens_per_s"] is None


@pytest.mark.slow
def test_the_plain_install_measures_all_but_the_ceiling_and_names_the_package(folder: Path) -> None:
    """In a process that cannot import any package of the extras."""
    blocked = {"onnx", *(name for packages in PACKAGES.values() for name in packages)}
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from doge_export.bench import measurement; measurement.STARTS = 1\n"
        "from doge_export.commands.bench import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, *QUICK], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [NO_CEILING]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["decode_tokens_per_s"] > 0
    assert {name for name, value in result.items() if value is None} == {"ceiling_tokens_per_s", "share_of_ceiling"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "FOLDER is missing; give"),
        (["x", "--random", "20m"], "FOLDER and --random exclude each other"),
        (["--random", "20m", "--int8", "--fp32"], "exclude each other"),
        (["x", "--int8"], "go with --random"),
        (["x", "--threads", "0"], "threads is 0"),
        (["x", "--prompt-tokens", "0"], "prompt_tokens is 0; it must be at least 1"),
        (["x", "--rounds", "-1"], "rounds is -1"),
        (["nowhere"], "there is no folder 'nowhere'; give one that doge-export wrote, or a hub id (owner/name)"),
    ],
)
def test_bad_options_get_one_sentence(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_random_model_has_weights_that_need_no_text(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="weights of a random model are int4; they must be one of int8, fp16, fp32"):
        write_random("20m", "int4", tmp_path, None)


@pytest.mark.slow
def test_a_random_model_is_a_decoder_of_the_family_s_size(tmp_path: Path) -> None:
    export_random("20m", "int8", tmp_path / "m")
    description = Decoder(tmp_path / "m").description
    assert (description.num_layers, description.num_kv_heads, description.vocab_size) == (8, 1, 32768)


def test_an_assistant_is_timed_beside_answers_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doge_export.bench.assisted.PROMPTS", ("Hello", "Who are you?"))
    done = run(TALKS, "--assistant", TALKS, "--new-tokens", 6, "--rounds", 2, "--threads", 1)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["completion_tokens"] == 12
    low, high = result["ratio_spread"]
    assert 0 < low <= result["ratio"] <= high
    assert "guesses" in done.stdout


def test_an_assistant_is_timed_on_prompts_of_ones_own(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Once"}\n{"messages": [{"role": "user", "content": "Hello"}]}\n{"prompt": "Two"}\n')
    words = ("--assistant", TALKS, "--prompts", prompts, "--new-tokens", 4, "--rounds", 1, "--threads", 1)
    result = json.loads(run(TALKS, *words).stdout.splitlines()[-1])
    assert result["completion_tokens"] == 12
    prompts.write_text('{"prompt": "Once"}\n{"text": "Hello"}\n')
    done = run(TALKS, *words)
    assert done.exit_code == 2
    assert "row 2: it has neither prompt nor messages; give one of them" in done.stderr


def test_prompts_go_with_an_assistant(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("")
    for words, sentence in (((), "--prompts goes with --assistant"), (("--assistant", TALKS), "holds no row")):
        done = run(TALKS, "--prompts", tmp_path / "prompts.jsonl", *words)
        assert (done.exit_code, sentence in done.stderr) == (2, True)


def test_an_assistant_of_a_random_model_is_refused() -> None:
    done = run("--random", "20m", "--assistant", TALKS)
    assert done.exit_code == 2
    assert "--assistant goes with FOLDER" in done.stderr


@pytest.mark.slow
def test_an_unknown_size_gets_one_sentence() -> None:
    done = run("--random", "21m", *QUICK)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: unknown model size '21m'; the family has Doge-20M")
