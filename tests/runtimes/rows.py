"""Rows of the golden table, read and compared, for the checks in other environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(work: Path, name: str) -> dict[str, list[Row]]:
    """table.json or chats.json, by folder."""
    found: dict[str, list[Row]] = json.loads((work / name).read_text(encoding="utf-8"))
    return found


def until_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Tokens up to the first end; all where there is none."""
    places = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def same_within_rounding(found: list[int], row: Row, ends: list[int]) -> bool:
    """Whether tokens are those of the row, up to a choice that the rounding of several tokens at once may turn.

    The first token that differs may be the second of two choices that lie within the rounding of both logits. Behind
    it stands another text, which is not compared.
    """
    expected = until_end(row["tokens"], ends)
    differing = [index for index, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]]
    if not differing:
        return len(found) == len(expected)
    first = differing[0]
    return bool(found[first] == row["runners_up"][first] and row["gaps"][first] <= 2 * row["rounding"])


def same_in_batch(found: list[list[int]], rows: list[Row], ends: list[int], pad: int) -> bool:
    """Whether the rows of a batch have their own tokens, within rounding where the processor rounds rows otherwise.

    A repetition penalty takes padding for tokens of the row. So a row is compared up to where it answers `pad`.
    """
    for tokens, row in zip(found, rows, strict=True):
        if row["repetition_penalty"] != 1 and pad in row["tokens"]:
            count = row["tokens"].index(pad)
            tokens, row = tokens[:count], row | {"tokens": row["tokens"][:count]}  # noqa: PLW2901 - both are cut
        cut = until_end(tokens, ends)
        exact = cut == until_end(row["tokens"], ends)
        if not exact and (row["batch_is_exact"] or not same_within_rounding(cut, row, ends)):
            return False
    return True
