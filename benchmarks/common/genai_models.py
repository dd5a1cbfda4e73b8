"""Random models for onnxruntime-genai: Llamas with the dimensions of a member of the family, in 8 bits.

Its own model builder writes them, which knows no Doge: pip install onnxruntime-genai onnx_ir.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from doge_model import DogeConfig, preset_config

CONTEXT = 2048  # tokens
OPTIONS = ("accuracy_level=4", "block_size=64")  # int8 activations, as ours has; smaller blocks are slower


def write_genai(size: str, folder: Path) -> None:
    """Write the model, its genai_config.json, and a tokenizer that nobody uses."""
    with tempfile.TemporaryDirectory() as temporary:
        write_llama_checkpoint(preset_config(size), Path(temporary))
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        target = ["-i", temporary, "-o", str(folder), "-p", "int8", "-e", "cpu", "-c", temporary]
        done = subprocess.run(
            [*builder, *target, "--extra_options", *OPTIONS], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"onnxruntime-genai's builder ended with: {done.stderr.strip().splitlines()[-1]}")


def write_llama_checkpoint(config: DogeConfig, folder: Path) -> None:
    """A random Llama as transformers saves it."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415 - only this model needs them
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415 - the same

    llama = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(llama).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="b", eos_token="c", pad_token="c").save_pretrained(folder)
