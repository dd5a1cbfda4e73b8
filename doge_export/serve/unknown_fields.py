"""Fields of a request that the server does not know: those that would change the answer are refused, others ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import bad_request

# of OpenAI's interface, vLLM's and llama.cpp's; each with the values that change nothing
CHANGES_ANSWER: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_prompt": (True, False),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "echo": (False,),
    "enable_thinking": (),
    "function_call": ("none",),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora": ([],),
    "mirostat": (0,),
    "modalities": (["text"],),
    "n_predict": (),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_ctx": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "repeat_penalty": (1,),
    "samplers": (),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "thinking": (),
    "top_a": (0,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
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
        if name in CHANGES_ANSWER:
            raise bad_request(
                f"{name} is not supported and would change the answer; leave it out", name, "unsupported_parameter"
            )
        meant = difflib.get_close_matches(name[:64], known, 1, CLOSE)
        if meant:
            raise bad_request(f"there is no field {name[:64]!r}; {meant[0]!r} may be meant", name, "unknown_parameter")
