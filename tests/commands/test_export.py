"""doge-export as a user calls it: success, every refusal, and the files left behind."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Never

import pytest
from click.testing import CliRunner, Result

import doge_export
from doge_export.commands.export import main
from doge_export.measure.verification import Limits
from doge_export.runtime.decoder import Decoder
from doge_export.texts.token_ids import TEXT_FILE
from tests.helpers.checkpoints import byte_vocabulary, save_doge, save_tokenizer, tiny_llama
from tests.helpers.evaluation_data import save_talking_checkpoint
from tests.helpers.models import FORMS, attentions, random_ids, tiny_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A saved tiny checkpoint without tokenizer."""
    folder = tmp_path / "tiny"
    tiny_model(**FORMS["native"]).save_pretrained(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_an_export_is_a_folder_that_runs(weights: str, checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, tmp_path / "out", f"--{weights}")
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out'}" in result.stdout
    assert left_in(tmp_path) == ["out", "tiny"]
    model = doge_export.load(tmp_path / "out")
    assert len(model.generate(random_ids(5).tolist(), max_new_tokens=4, ignore_eos=True).token_ids) == 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_faithful_exports_of_small_vocabularies_pass(seed: int, tmp_path: Path) -> None:
    """Their sequences repeat tokens, so keys tie; with a mask of any strength."""
    model = tiny_model(seed, vocab_size=24, hidden_size=64, keep_window_size=(7, 32, 64)[seed % 3])
    for attention in attentions(model):
        attention.A.data.mul_((1e-3, 0.1, 1, 3)[seed % 4])
    model.save_pretrained(tmp_path / "tiny")
    result = run(tmp_path / "tiny", tmp_path / "out", "--fp32")
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_int8_in_a_folder_named_after_the_model_is_the_default(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("tiny/").exit_code == 0
    report = json.loads((tmp_path / "tiny-int8" / "export_report.json").read_text())
    assert report["weights"] == "int8"
    assert report["verification"]["limits"]["kl_mean"] == 0.1


@pytest.mark.slow
def test_the_current_folder_can_be_the_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint)
    assert run(".").exit_code == 0
    assert (checkpoint / "tiny-int8" / "export_report.json").is_file()


@pytest.mark.slow
def test_an_existing_folder_is_replaced_only_with_overwrite(checkpoint: Path, tmp_path: Path) -> None:
    assert run(checkpoint, tmp_path / "out").exit_code == 0
    before = (tmp_path / "out" / "export_report.json").read_text()
    refused = run(checkpoint, tmp_path / "out", "--fp32")
    assert (refused.exit_code, "--overwrite" in refused.stderr) == (2, True)
    assert (tmp_path / "out" / "export_report.json").read_text() == before
    assert run(checkpoint, tmp_path / "out", "--fp32", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["weights"] == "fp32"
    assert left_in(tmp_path) == ["out", "tiny"]


def test_overwrite_never_replaces_what_is_not_an_export(checkpoint: Path, tmp_path: Path) -> None:
    for target in (checkpoint, tmp_path):
        result = run(checkpoint, target, "--overwrite")
        assert (result.exit_code, "something else than an export" in result.stderr) == (2, True)
    assert (checkpoint / "model.safetensors").is_file()


USAGE = {
    "no model": ([], "MODEL is missing; give a checkpoint folder"),
    "an unknown option": (["x", "--int3"], "No such option '--int3'"),
    "no parent folder": (["x", "/nowhere/at/all"], "/nowhere/at does not exist"),
    "no threads": (["x", "--threads", "0"], "threads is 0; it must be a whole number from 1 to"),
    "too many threads": (["x", "--threads", "100000"], "threads is 100000; it must be a whole number from 1 to"),
    "no window": (["x", "--keep-window", "0"], "keep_window is 0; it must be at least 1"),
    "an empty model": ([" "], "MODEL is empty"),
    "a learned window of no length": (["x", "--calibrate-window"], "calibrate_window goes with keep_window"),
    "two kinds of weights": (["x", "--int8", "--fp32"], "exclude each other"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line_and_exit_code_2(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = USAGE[case]
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert left_in(tmp_path) == []


def test_a_wider_window_than_the_checkpoint_s_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, tmp_path / "out", "--keep-window", 65)
    assert (result.exit_code, "the checkpoint has 64" in result.stderr) == (2, True)
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.slow
def test_a_narrower_window_is_exported_with_its_cost(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, tmp_path / "out", "--fp32", "--keep-window", 16)
    assert result.exit_code == 0, result.output
    cost = json.loads((tmp_path / "out" / "export_report.json").read_text())["narrowed_window"]
    assert (cost["keep_window_size"], cost["original_keep_window_size"], cost["tokens"]) == (16, 64, 1024)
    assert cost["kl_mean"] > 1e-4
    assert json.loads((tmp_path / "out" / "config.json").read_text())["keep_window_size"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--int4", "--kv-int8"], ["--int8"], ["--fp16"]])
def test_a_window_that_has_learned_goes_with_every_recipe(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doge_export.bonuses.streams.STREAM", 300)
    monkeypatch.setattr("doge_export.bonuses.streams.TOKENS", 600)
    save_talking_checkpoint(tmp_path / "llama")
    arguments = [*options, "--keep-window", 80, "--report-tokens", 0, "--calibrate-window"]
    result = run(tmp_path / "llama", tmp_path / "out", *arguments)
    assert result.exit_code == 0, result.output
    model = doge_export.load(tmp_path / "out")
    assert len(model.generate([5] * 100, max_new_tokens=9, ignore_eos=True).token_ids) == 9


@pytest.mark.slow
def test_a_window_that_has_learned_from_a_text_is_exported_with_its_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doge_export.bonuses.streams.STREAM", 300)
    monkeypatch.setattr("doge_export.bonuses.streams.TOKENS", 900)
    save_talking_checkpoint(tmp_path / "llama")
    (tmp_path / "text.txt").write_text(TEXT_FILE.read_text()[:9000])
    options = ["--fp32", "--keep-window", 80, "--calibrate-window", tmp_path / "text.txt", "--report-tokens", 20]
    result = run(tmp_path / "llama", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    cost, learned = report["narrowed_window"], report["window_calibration"]
    assert (cost["keep_bonus"], cost["keep_sinks"], len(cost["nats"]["unlearned"])) == (learned["keep_bonus"], 4, 9)
    assert learned["text"]["tokens"] == 900
    assert learned["errors"]["with_bonuses"] <= learned["errors"]["with_sinks"]
    assert list(cost["published_costs"]) == ["accumulated attention", "last attention", "key similarity"]
    page = (tmp_path / "out" / "export_report.html").read_text()
    assert "sinks alone" in page and ", by last attention " in page
    assert "every key stays for 32 tokens" in result.stdout
    assert "learning which keys to keep: layer 2 of 2" in result.stderr
    description = Decoder(tmp_path / "out").description
    assert description.keep_bonus == learned["keep_bonus"] > 0
    assert description.keep_recent == learned["keep_recent"] == cost["keep_recent"] == 32
    for said in (result.stdout, (tmp_path / "out" / "export_report.html").read_text()):
        assert "single facts of a far past are often lost" in said


@pytest.mark.slow
def test_sinks_are_exported_without_a_narrower_window_too(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, tmp_path / "out", "--fp32", "--keep-sinks", 3, "--report-tokens", 0)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["keep_sinks"] == 3
    assert Decoder(tmp_path / "out").description.keep_sinks == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sinks"), [((), 4), (("--keep-window", 16), 4), (("--keep-window", 3), 2), (("--keep-sinks", 0), 0)]
)
def test_a_llama_has_sinks_as_far_as_they_leave_room(options: tuple[Any, ...], sinks: int, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "llama")
    result = run(tmp_path / "llama", tmp_path / "out", "--fp32", "--report-tokens", 0, *options)
    assert result.exit_code == 0, result.output
    assert Decoder(tmp_path / "out").description.keep_sinks == sinks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep-sinks", -1), "keep_sinks is -1; it must be at least 0"),
        (("--keep-sinks", 64), "keep_sinks is 64; it must be below the window of 64 tokens, so that others find room"),
        (("--keep-sinks", 8, "--keep-window", 8), "keep_sinks is 8; it must be below the window of 8 tokens"),
        (("--keep-sinks", "x"), "'x' is not a valid integer"),
    ],
)
def test_sinks_that_fill_the_window_are_refused(
    options: tuple[Any, ...], said: str, checkpoint: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, tmp_path / "out", *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_broken_checkpoint_is_one_line_and_exit_code_1(damage: str, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000]) if damage == "truncated" else file.unlink()
    result = run(checkpoint, tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.output
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.slow
def test_an_export_that_disagrees_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doge_export.measure.verification.LIMITS", {"int8": Limits(kl_mean=1e-12)})
    result = run(checkpoint, tmp_path / "out")
    assert (result.exit_code, "disagrees with the PyTorch model: kl_mean" in result.stderr) == (1, True)
    assert left_in(tmp_path) == ["tiny"]


def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Never:
        raise OSError(28, "No space left on device", "model.onnx_data")

    monkeypatch.setattr("doge_export.graph.builder.ConstantPool.write", full)
    result = run(checkpoint, tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot write model.onnx_data: No space left on device" in result.stderr
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_export_leaves_nothing(stop: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import signal, time, doge_export.export.pipeline as p; from doge_export.commands.export import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and jobs in the background hold signals off\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "p.verify = lambda *a, **k: (print('verifying', flush=True), time.sleep(60)); main()"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "verifying\n"
    time.sleep(0.1)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "Traceback" not in errors
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.slow
def test_help_is_instant_and_needs_no_torch() -> None:
    start = time.perf_counter()
    code = "import sys; sys.modules['torch'] = None; from doge_export.commands.export import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "--keep-window" in done.stdout
    assert time.perf_counter() - start < 3


@pytest.mark.slow
def test_without_the_extra_the_missing_package_and_the_remedy_are_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from doge_export.commands.export import main; main()"
    command = [sys.executable, "-c", code, "x", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == "Error: exporting needs torch: pip install -c constraints.txt '.[export]' in the clone"
    )


@pytest.mark.slow
def test_an_export_killed_outright_is_cleaned_up_by_the_next_one(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import os, doge_export.export.pipeline as p; from doge_export.commands.export import main\n"
        "p.verify = lambda *a, **k: os.kill(os.getpid(), 9); main()"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "out"), "--report-tokens", "0"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.*/new/onnx/model.onnx"))) == 1
    assert run(checkpoint, tmp_path / "out", "--report-tokens", 0).exit_code == 0
    assert left_in(tmp_path) == ["out", "tiny"]


def test_an_existing_empty_folder_is_written_to(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run(checkpoint, tmp_path / "out", "--report-tokens", 0).exit_code == 0
    assert left_in(tmp_path) == ["out", "tiny"]
    assert doge_export.load(tmp_path / "out").name == "out"


@pytest.mark.slow
def test_the_next_command_can_be_pasted_whatever_the_name_of_the_folder(tmp_path: Path) -> None:
    save_doge(tmp_path / "tiny", vocab_size=len(byte_vocabulary()))
    save_tokenizer(tmp_path / "tiny")
    result = run(tmp_path / "tiny", tmp_path / "it's mine", "--report-tokens", 0)
    command = next(line for line in result.stdout.splitlines() if line.startswith("next")).removeprefix("next")
    assert shlex.split(command) == ["doge-chat", str(tmp_path / "it's mine")]


@pytest.mark.parametrize("name", ["bench", "chat", "eval", "export"])
def test_every_command_tells_its_version(name: str) -> None:
    command = importlib.import_module(f"doge_export.commands.{name}").main
    result = CliRunner().invoke(command, ["--version"], prog_name=f"doge-{name}")
    assert (result.exit_code, result.output) == (0, f"doge-{name} {doge_export.__version__}\n")
    assert "-h, --help" in CliRunner().invoke(command, ["-h"]).output
