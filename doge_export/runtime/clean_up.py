"""Spaces that some tokenizers put before punctuation, taken out again, of a whole text or of its pieces.

The rule is transformers' `clean_up_tokenization`. A folder asks for it by `clean_up_tokenization_spaces`.
"""

from __future__ import annotations

# In this order. A replacement is not looked at again by its own line, but by those below it.
REPLACEMENTS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up(text: str) -> str:
    """The text without the spaces."""
    for spaced, cleaned in REPLACEMENTS:
        text = text.replace(spaced, cleaned)
    return text


class CleanUp:
    """Cleans a text that comes in pieces; all that comes out, put together, is the whole text cleaned."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece; the cleaned text that nothing that follows can change."""
        text = self._held + piece
        end = settled_length(text)
        self._held = text[end:]
        return clean_up(text[:end])

    def foresee(self, piece: str) -> str:
        """The cleaned text still to come if `piece` were the last; nothing is taken in."""
        return clean_up(self._held + piece)

    def finish(self) -> str:
        """The rest, when no more will come."""
        rest, self._held = self._held, ""
        return clean_up(rest)


def settled_length(text: str) -> int:
    """Characters from the start of `text` that are cleaned by themselves as they are with anything behind them.

    Each replaced text begins with a space and has at most four characters. So none reaches over three characters
    without a space. In front of a space, only an apostrophe or a lone `n` can be part of a replaced text. Of three
    spaces at least one is always left, so none reaches over them from a space before them.
    """
    for end in range(len(text), 0, -1):
        before, after = text[max(end - 3, 0) : end], text[end : end + 3]
        starts_anew = after[:1] == " " and before[-1] not in " '" and not before.endswith(" n")
        within_spaces = after == "   " and before[-1] == " "
        if " " not in before or starts_anew or within_spaces:
            return end
    return 0
