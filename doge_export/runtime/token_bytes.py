"""The bytes that a token adds to a text, for tokenizers whose tokens are pieces of UTF-8.

Byte-level tokenizers (GPT-2's) write bytes as letters. SentencePiece writes a space as \u2581, and bytes that belong
to no other token as `<0x0A>`. The tokens of others, such as WordPiece, change with their neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def decoder_kinds(backend: tokenizers.Tokenizer) -> frozenset[str]:
    """Names of the steps by which a tokenizer decodes, such as ByteLevel."""
    if backend.decoder is None:
        return frozenset()
    return frozenset(_kinds(json.loads(backend.decoder.__getstate__())))


def _kinds(decoder: dict[str, Any]) -> Iterator[str]:
    yield decoder["type"]
    for step in decoder.get("decoders", ()):
        yield from _kinds(step)


def has_token_bytes(kinds: frozenset[str]) -> bool:
    """Whether tokens that are decoded so have bytes of their own."""
    return not kinds.isdisjoint(("ByteLevel", "ByteFallback", "Metaspace"))


def bytes_of_token(token: str, kinds: frozenset[str]) -> bytes:
    """The bytes of a token, written as in the vocabulary, that is decoded by steps of these kinds."""
    if "ByteLevel" in kinds:
        if all(letter in BYTE_OF_LETTER for letter in token):
            return bytes(BYTE_OF_LETTER[letter] for letter in token)
        return token.encode()  # an added token, which is written as it is
    if "ByteFallback" in kinds and (found := BYTE.fullmatch(token)):
        return bytes([int(found[1], 16)])
    return token.replace(SPACE, " ").encode()


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: printable letters of Latin-1 stand for themselves, the other bytes for letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()
