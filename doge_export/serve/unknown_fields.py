"""Fields of a request that the server does not know: those that would change the answer are refused, others ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ..runtime.generation_options import GenerationOverrides
from .errors import bad_request
from .schemas import ChatRequest, CompletionRequest

# of OpenAI's interface, vLLM's, llama.cpp's and others; each with the values that change nothing
CHANGES_ANSWER: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "best_of": (1,),
    "cache_prompt": (True, False),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "decoder_input_details": (False,),
    "do_sample": (),
    "documents": ([],),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "echo": (False,),
    "enable_thinking": (),
    "encoder_repetition_penalty": (1,),
    "forced_eos_token_id": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "images": ([],),
    "include_stop_str_in_output": (False,),
    "input": (),
    "instructions": (),
    "json_schema": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora": ([],),
    "max_length": (),
    "max_output_tokens": (),
    "max_tokens_to_sample": (),
    "messages": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"],),
    "n_predict": (),
    "n_probs": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_ctx": (),
    "num_predict": (),
    "num_return_sequences": (1,),
    "parallel_tool_calls": (True,),
    "penalty_alpha": (0,),
    "previous_response_id": (),
    "prompt": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "regex": ("",),
    "repeat_last_n": (-1,),
    "repeat_penalty": (1,),
    "return_tokens_as_token_ids": (False,),
    "samplers": (),
    "sequence_bias": ([],),
    "skip_special_tokens": (True,),
    "smoothing_factor": (0,),
    "stop_sequences": ([],),
    "stop_token_ids": ([],),
    "stopping_strings": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "suppress_tokens": ([],),
    "system": (),
    "tfs_z": (1,),
    "thinking": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_a": (0,),
    "top_logprobs": (0,),
    "top_n_sigma": (-1, 0),
    "truncate_prompt_tokens": (),
    "typ_p": (1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
}
# fields of the other kind of request, and the library's options that a request has under another name or not at all
KNOWN_ELSEWHERE = {
    *CompletionRequest.model_fields,
    *ChatRequest.model_fields,
    *GenerationOverrides.__annotations__,
} - {"prompt_lookup_num_tokens"}  # which makes an answer sooner, and no other
INSTEAD = {
    "json_schema": "response_format",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "stopping_strings": "stop",
    "top_logprobs": "logprobs",
}
CLOSE = 0.84  # how alike a mistyped name is to the one that was meant


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """ApiError for the first field that would change the answer, or that is a known one mistyped.

    given: the fields of a request that its schema does not have. known: those that it has.
    """
    known = list(known)
    for name, value in given.items():
        if value is None or value in CHANGES_ANSWER.get(name, ()):
            continue
        if name in CHANGES_ANSWER or name in KNOWN_ELSEWHERE:
            advice = f"give {INSTEAD[name]} in its place" if name in INSTEAD else "leave it out"
            raise bad_request(
                f"{name} is not supported here and would change the answer; {advice}", name, "unsupported_parameter"
            )
        meant = difflib.get_close_matches(name[:64], known, 1, CLOSE)
        if meant:
            raise bad_request(f"there is no field {name[:64]!r}; {meant[0]!r} may be meant", name, "unknown_parameter")
