"""The benchmarks of the operators' targets: their models, what they refuse, and what they find in one process."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from benchmarks.common.checkpoints import write_checkpoint
from benchmarks.common.contenders import OURS, Contender
from benchmarks.peers import idle, int4, runtimes
from benchmarks.speed import earlier, prompt_memory
from doge_model import load_checkpoint

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "checkpoints" / "doge-20m-10min-int8"


def test_a_tree_of_another_commit_is_refused_with_the_way_to_the_right_one() -> None:
    done = CliRunner().invoke(earlier.main, [str(ROOT)])
    assert done.exit_code == 2
    assert "git worktree add --detach TREE 2a0d6f8" in done.output


@pytest.mark.parametrize(("name", "words"), [("llama", "llama is no runtime"), ("optimum", "run make test-runtimes")])
def test_a_runtime_that_is_unknown_or_missing_is_refused(name: str, words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(runtimes.main, [str(TRAINED), "--runtimes", name, "--environments", str(tmp_path)])
    assert done.exit_code == 2
    assert words in done.output


def test_the_weights_of_a_model_are_its_gguf_file_or_its_data_file(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    assert int4.weights_of(gguf) == [gguf]
    assert int4.weights_of(TRAINED) == [TRAINED / "onnx" / "model.onnx_data"]


def test_a_random_checkpoint_has_a_tokenizer_of_its_vocabulary(tmp_path: Path) -> None:
    write_checkpoint("20m", tmp_path)
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.tokenizer is not None
    assert len(checkpoint.tokenizer) == checkpoint.model.config.vocab_size


def test_an_idle_model_takes_less_processor_time_than_an_answer() -> None:
    with patch.object(idle, "WAITS_S", (0.1, 0.2)):
        row = idle.measure([Contender(OURS, str(TRAINED), "20m")], threads=1, rounds=1)[0]
    assert len(row["waits_ms"]) == 2
    assert max(row["waits_ms"]) < row["answer_ms"]


def test_the_peak_of_a_long_prompt_holds_its_weights_and_its_state() -> None:
    found = prompt_memory.measure(Contender(OURS, str(TRAINED), "20m"), threads=1)
    assert found["weights_mb"] + found["state_mb"] < found["opened_mb"] <= found["peak_mb"]
