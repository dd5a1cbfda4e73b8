"""genai_config.json: the settings with which onnxruntime-genai opens an exported folder, `og.Model(folder)`.

Any key that genai does not know is an error there, so the file has no other (src/config.cpp of onnxruntime-genai 0.18).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..graph import Dimensions
from ..runtime.description import PORTABLE_FILE

FILE = "genai_config.json"
INPUTS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "position_ids": "position_ids",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
}
OUTPUTS = {
    "logits": "logits",
    "present_key_names": "present.%d.key",
    "present_value_names": "present.%d.value",
}


def write_genai_config(folder: Path, d: Dimensions, generation: GenerationConfig) -> None:
    """Write the file; generation: of the checkpoint, whose special tokens and sampling are taken over."""
    text = json.dumps(genai_config(d, generation), indent=2)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def genai_config(d: Dimensions, generation: GenerationConfig) -> dict[str, Any]:
    """The content of the file. `context_length` is the window: the portable graph evicts nothing."""
    return {
        "model": {
            "type": "decoder",
            "vocab_size": d.vocab_size,
            "context_length": d.keep_window_size,
            **special_tokens(generation),
            "decoder": {
                "filename": PORTABLE_FILE,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": d.hidden_size,
                "num_attention_heads": d.num_heads,
                "num_key_value_heads": d.num_kv_heads,
                "num_hidden_layers": d.num_layers,
                "head_size": d.channels,
                "inputs": INPUTS,
                "outputs": OUTPUTS,
            },
        },
        "search": {
            "max_length": d.keep_window_size,
            "past_present_share_buffer": True,
            **sampling(generation),
        },
    }


def special_tokens(generation: GenerationConfig) -> dict[str, Any]:
    """bos where there is one, eos as a list that may be empty, and pad, which genai wants in any case.

    Where the list is empty, genai ends at pad (src/config.cpp). So that is bos if need be, which no model writes.
    """
    eos, bos, pad = generation.eos_token_id, generation.bos_token_id, generation.pad_token_id
    ends = [] if eos is None else list(eos) if isinstance(eos, list) else [eos]
    padding = next(token for token in (pad, *ends, bos, 0) if token is not None)
    return ({} if bos is None else {"bos_token_id": bos}) | {"eos_token_id": ends, "pad_token_id": padding}


def sampling(generation: GenerationConfig) -> dict[str, Any]:
    """The folder's sampling under genai's names; an absent field has transformers' own default, 50 for top_k."""
    given = {
        "do_sample": bool(generation.do_sample),
        "temperature": generation.temperature,
        "top_k": 50 if generation.top_k is None else generation.top_k,
        "top_p": generation.top_p,
        "repetition_penalty": generation.repetition_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}
