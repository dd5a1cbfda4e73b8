"""The greedy answers of a trained folder to texts: alone, with guesses from the prompt, and in a batch."""

from __future__ import annotations

import doge_export

TEXTS = ("Once upon a time there was a little", "The dog ran and the dog ran and the dog", "She said")
NEW_TOKENS = 24


def spoken(model: doge_export.Model) -> dict[str, list[list[int]]]:
    """Token ids by the way of asking."""
    alone = [ask(model, text) for text in TEXTS]
    guessed = [ask(model, text, guesses=7) for text in TEXTS]
    together = model.generate(list(TEXTS), max_new_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    return {"alone": alone, "guessed": guessed, "together": [list(result.token_ids) for result in together]}


def ask(model: doge_export.Model, text: str, guesses: int | None = None) -> list[int]:
    """The answer to one text."""
    found = model.generate(
        text, max_new_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True, prompt_lookup_num_tokens=guesses
    )
    return list(found.token_ids)
