"""optimum's exporter with Doge: python check_optimum_export.py WORK, in an environment of the extra `optimum`.

`optimum-cli` exports doge-tiny. Its graph is compared with transformers' own Doge and, in tokens, with the golden
table. Models that transformers 4.57 cannot run are refused in one sentence. The exit code is the number of differences.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from doge_export.errors import CheckpointError
from doge_export.optimum.exporter import DogeOnnxConfig, register_doge

logging.set_verbosity_error()
WORK = Path(sys.argv[1])
TINY = Path(__file__).parents[2] / "checkpoints" / "doge-tiny"
TASK = "text-generation-with-past"
TOLERANCE = 1e-4  # of logits up to 20, float32: onnxruntime sums in another order than torch


def run(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of this environment."""
    program = Path(sys.executable).with_name(command)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error in which a command ended, if it is one line."""
    last = done.stderr.strip().splitlines()[-1]
    return last if done.returncode == 1 and last.startswith("Error: ") and "Traceback" not in done.stderr else ""


def published(name: str, folder: str) -> Path:
    """A copy of a checkpoint of ours under the type that those of its form have on the hub."""
    copy = Path(shutil.copytree(WORK / "checkpoints" / name, Path(folder, "published", name)))
    fields = json.loads((copy / "config.json").read_text()) | {"model_type": "doge"}
    (copy / "config.json").write_text(json.dumps(fields))
    return copy


def refusal(checkpoint: Path, folder: str) -> str:
    """The sentence in which an export from Python ends."""
    try:
        main_export(str(checkpoint), output=Path(folder), task=TASK)
    except CheckpointError as error:
        return str(error)
    return ""


def differing_logits(exported: ORTModelForCausalLM) -> float:
    """The largest difference from transformers' eager Doge, rows padded on the left, up to the window and in steps."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.randint(3, model.config.vocab_size, (2, model.config.keep_window_size))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=positions).logits
    whole = exported(ids, attention_mask=mask, position_ids=positions)
    start = exported(ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1])
    step = exported(
        ids[:, -1:], attention_mask=mask, position_ids=positions[:, -1:], past_key_values=start.past_key_values
    )
    found = [(whole.logits - expected)[mask.bool()], (step.logits - expected[:, -1:])]
    return max(difference.abs().max().item() for difference in found)


def same_tokens(exported: ORTModelForCausalLM) -> bool:
    """Whether its greedy tokens are those of our own export in float32."""
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    rows = json.loads((WORK / "table.json").read_text())["doge-tiny-fp32"]
    prompts = [torch.tensor([row["prompt"]]) for row in rows]
    found = [exported.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist() for ids in prompts]
    return found == [row["prompt"] + row["tokens"] for row in rows]


def evicts_as_transformers() -> bool:
    """Whether the traced attention keeps the keys that transformers' own keeps, beyond the window; dt all different."""
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    attention = model.model.layers[0].self_attn
    dt, hidden = torch.rand(1, attention.config.num_key_value_heads, 200), torch.zeros(1, 50, 8)
    causal = torch.full((1, 1, 50, 200), torch.finfo(torch.float32).min).triu(151)
    expected = attention.prepare_dynamic_mask(hidden, dt, 128, causal)
    with DogeOnnxConfig(model.config, task="text-generation", use_past=True).patch_model_for_export(model):
        return torch.equal(attention.prepare_dynamic_mask(hidden, dt, 128, causal), expected)


def main(folder: str) -> dict[str, bool]:
    """Whether each thing holds, by name."""
    exported = run("optimum-cli", "export", "onnx", "--model", TINY, "--task", TASK, folder)
    if exported.returncode:
        sys.exit(exported.stderr)
    model = ORTModelForCausalLM.from_pretrained(folder)
    holds: dict[str, Callable[[], bool]] = {
        "logits": lambda: differing_logits(model) < TOLERANCE,
        "tokens": lambda: same_tokens(model),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(folder)("The dog ran").input_ids == [0, 457, 1218, 1054],
    }
    found = {name: holds[name]() for name in holds}
    register_doge()
    small = refusal(published("small-doge", folder), folder)
    biases = refusal(published("biases", folder), folder)
    own = refusal(WORK / "checkpoints" / "small-doge", folder)
    experts = run("optimum-cli", "export", "onnx", "--model", published("experts", folder), "--task", TASK, folder)
    return found | {
        "eviction": evicts_as_transformers(),
        "our own type refused": own.startswith("model_type is 'doge_model'; it must be 'doge'"),
        "mask heads refused": small.startswith("tensor model.layers.0.self_attn.A is not in the checkpoint"),
        "no qk norm refused": biases.startswith("tensor model.layers.0.self_attn.k_norm.weight is not in the"),
        "experts refused": sentence(experts).startswith("Error: config field is_moe is True; it must be False"),
        "doge-export refused": sentence(run("doge-export", TINY, Path(folder, "none"))).startswith(
            "Error: exporting needs trans"
        ),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        differing = [name for name, same in main(place).items() if not same]
    print(f"optimum-cli export onnx: {', '.join(differing) or 'as transformers and as our own export'}", flush=True)
    sys.exit(len(differing))
