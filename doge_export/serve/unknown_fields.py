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
    "adapter": (),
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "allowed_token_ids": (),
    "assistant_prefill": ("",),
    "audio": (),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "beam_width": (1,),
    "begin_suppress_tokens": ([],),
    "best_of": (1,),
    "bias": ({}, []),
    "cache_prompt": (True, False),
    "candidate_count": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "context": (),
    "continue_final_message": (False,),
    "decoder_input_details": (False,),
    "diversity_penalty": (0,),
    "do_sample": (),
    "documents": ([],),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "ebnf": ("",),
    "echo": (False,),
    "enable_thinking": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "eos_token_id": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "forced_eos_token_id": ([],),
    "extra_body": ({},),
    "extra_options": ({},),
    "format": ("",),
    "function_call": ("none",),
    "functions": ([],),
    "generation_config": ({},),
    "grammar": ("",),
    "guidance_scale": (1,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "images": ([],),
    "include_stop_str_in_output": (False,),
    "input": (),
    "inputs": (),
    "instructions": (),
    "json": (),
    "json_mode": (False,),
    "json_schema": (),
    "length": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora": ([],),
    "max_gen_len": (),
    "max_length": (),
    "max_output_tokens": (),
    "max_tokens_to_sample": (),
    "messages": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"],),
    "n_keep": (0,),
    "n_predict": (),
    "n_probs": (0,),
    "no_repeat_ngram": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_ctx": (),
    "num_predict": (),
    "num_return_sequences": (1,),
    "options": ({},),
    "parallel_tool_calls": (True,),
    "parameters": ({},),
    "penalize_nl": (False,),
    "penalty": (),
    "penalty_alpha": (0,),
    "penalty_last_n": (-1,),
    "prefix": ("",),
    "previous_response_id": (),
    "prompt": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "random_seed": (),
    "raw": (False,),
    "reasoning": (),
    "reasoning_budget": (-1,),
    "reasoning_effort": ("none",),
    "regex": ("",),
    "renormalize_logits": (False,),
    "repeat_last_n": (-1,),
    "repeat_penalty": (1,),
    "repetition_context_size": (),
    "response_mime_type": ("text/plain",),
    "response_schema": (),
    "return_tokens_as_token_ids": (False,),
    "safe_prompt": (False,),
    "samplers": (),
    "sampling_params": ({},),
    "sampling_seed": (),
    "sequence_bias": ([],),
    "skip_special_tokens": (True,),
    "smoothing_factor": (0,),
    "stop_regex": ("",),
    "stop_sequence": ("",),
    "stop_sequences": ([],),
    "stop_strings": ([],),
    "stop_token": ("",),
    "stop_token_ids": ([],),
    "stop_words": ([],),
    "stopping_strings": ([],),
    "structural_tag": (),
    "structured_outputs": (),
    "suffix": ("",),
    "suppress_tokens": ([],),
    "system": (),
    "temp": (),
    "template": (),
    "tfs_z": (1,),
    "thinking": (),
    "thinking_budget": (),
    "thinking_budget_tokens": (),
    "tokens_to_generate": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_a": (0,),
    "top_logprobs": (0,),
    "top_n_sigma": (-1, 0),
    "top_n_tokens": (0,),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "typ_p": (1,),
    "typical": (1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "watermark": (False,),
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
    "bias": "logit_bias",
    "candidate_count": "n",
    "format": "response_format",
    "json": "response_format",
    "json_mode": "response_format",
    "json_schema": "response_format",
    "length": "max_tokens",
    "max_gen_len": "max_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "penalty": "repetition_penalty, presence_penalty or frequency_penalty",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "response_schema": "response_format",
    "sampling_seed": "seed",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "stop_token": "stop",
    "stop_words": "stop",
    "stopping_strings": "stop",
    "temp": "temperature",
    "tokens_to_generate": "max_tokens",
    "top_logprobs": "logprobs",
}
HOLD_FIELDS = ("extra_body", "extra_options", "options", "parameters", "sampling_params")
HARMLESS = ("mirostat_eta", "mirostat_tau")  # for without mirostat they change nothing
ADAPTER = "name it in model, as FOLDER:NAME"
CLOSE = 0.84  # how alike a mistyped name is to the one that was meant


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """ApiError for the first field that would change the answer, or that is one of them or a known one mistyped.

    given: the fields of a request that its schema does not have. known: those that it has.
    """
    known = list(known)
    names = {_letters(name): name for name in (*CHANGES_ANSWER, *KNOWN_ELSEWHERE, *known)}
    for name, value in given.items():
        shown = name[:64]
        meant = names.get(_letters(shown), shown)
        if name in HARMLESS or value is None or value in CHANGES_ANSWER.get(meant, ()):
            continue
        if meant not in known and (meant in CHANGES_ANSWER or meant in KNOWN_ELSEWHERE):
            fault = f"{shown} is not supported here and would change the answer; {_advice(meant)}"
            raise bad_request(fault, shown, "unsupported_parameter")
        near = difflib.get_close_matches(_letters(shown), names, 1, CLOSE)
        if near:
            found = names[near[0]]
            advice = f"{found!r} may be meant" if found in known else f"if {found} is meant, {_advice(found)}"
            raise bad_request(f"there is no field {shown!r}; {advice}", shown, "unknown_parameter")


def _letters(name: str) -> str:
    """A name without signs and capitals: `topP` and `top-p` are read as `top_p`."""
    return name.replace("_", "").replace("-", "").lower()


def _advice(name: str) -> str:
    if name in HOLD_FIELDS:
        return "give its fields beside the others"
    if name in ("adapter", "lora"):
        return ADAPTER
    return f"give {INSTEAD[name]} in its place" if name in INSTEAD else "leave it out"
