from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doge_export.runtime import detokenizer
from doge_export.runtime.detokenizer import Detokenizer
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import byte_level_tokenizer, id_of, sentencepiece_tokenizer

BYTE_LEVEL = byte_level_tokenizer()
SENTENCEPIECE = sentencepiece_tokenizer()
TEXTS = ["hello world", " two  spaces ", "héllo wörld", "日本語のテキスト", "👩‍👩‍👧 family", "a\nb\n\nc", "\ufffd ok"]


def pieces_of(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte-level", "sentencepiece"])
def test_the_pieces_are_the_decoded_text_and_split_no_character(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_of_several_tokens_comes_with_its_last_byte() -> None:
    assert pieces_of(BYTE_LEVEL, BYTE_LEVEL.encode("é€")) == ["", "é", "", "", "€", ""]


def test_the_space_before_a_word_is_kept_but_at_the_start() -> None:
    token_ids = [id_of(SENTENCEPIECE, piece) for piece in ("\u2581hello", "\u2581world", "\u2581", "he")]
    assert pieces_of(SENTENCEPIECE, token_ids) == ["hello", " world", " ", "he", ""]


@pytest.mark.parametrize(("tokenizer", "special"), [(BYTE_LEVEL, "<|im_end|>"), (SENTENCEPIECE, "</s>")])
def test_special_tokens_and_unknown_ids_do_not_show(tokenizer: Tokenizer, special: str) -> None:
    word = tokenizer.encode("hello") + tokenizer.encode(" world")
    noisy = [token_id for known in word for token_id in (known, id_of(tokenizer, special), 9999)]
    assert "".join(pieces_of(tokenizer, noisy)) == tokenizer.decode(noisy) == tokenizer.decode(word)


def test_an_incomplete_character_at_the_end_is_a_replacement_character() -> None:
    assert "".join(pieces_of(BYTE_LEVEL, BYTE_LEVEL.encode("a€")[:-1])) == "a\ufffd"


@settings(deadline=None)
@given(st.lists(st.integers(0, 258), max_size=30))
def test_any_byte_level_tokens_give_the_decoded_text(token_ids: list[int]) -> None:
    assert "".join(pieces_of(BYTE_LEVEL, token_ids)) == BYTE_LEVEL.decode(token_ids)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 300), st.integers(200, 258)), max_size=30))
def test_any_sentencepiece_tokens_give_the_decoded_text(token_ids: list[int]) -> None:
    assert "".join(pieces_of(SENTENCEPIECE, token_ids)) == SENTENCEPIECE.decode(token_ids)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([*BYTE_LEVEL.encode("€"), 255, 254, 253]), min_size=60, max_size=120))
def test_a_long_run_of_garbage_comes_out_before_its_end_and_complete(token_ids: list[int]) -> None:
    pieces = pieces_of(BYTE_LEVEL, token_ids)
    assert "".join(pieces) == BYTE_LEVEL.decode(token_ids)
    assert any(pieces[:-1])


@pytest.mark.parametrize("text", ["😀" * 60, "日本語" * 40, "é😀 " * 30, "a" + "😀" * 9 + " b" * 9 + "語" * 30])
def test_a_long_run_of_byte_tokens_comes_out_in_pieces_and_whole(text: str) -> None:
    token_ids = SENTENCEPIECE.encode(text)
    pieces = pieces_of(SENTENCEPIECE, token_ids)
    assert "".join(pieces) == SENTENCEPIECE.decode(token_ids) == text
    assert sum(map(bool, pieces)) > 1 and not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", [" a", "  two spaces ", " " * 40 + "x", " 😀" * 30, "a , b"])
def test_a_text_that_goes_on_loses_no_space(text: str) -> None:
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        detokenizer = Detokenizer(tokenizer, tokenizer.encode_inside("a"))
        pieces = [detokenizer.push(token_id) for token_id in tokenizer.encode_inside(text)]
        assert "".join(pieces) + detokenizer.finish() == text


def test_the_work_per_token_does_not_grow_with_the_text() -> None:
    lengths: list[int] = []

    class Counting(Tokenizer):
        def decode(
            self,
            token_ids: Sequence[int],
            skip_special_tokens: bool = True,
            clean_up_tokenization_spaces: bool | None = None,
        ) -> str:
            lengths.append(len(token_ids))
            return super().decode(token_ids, skip_special_tokens)

    pieces_of(Counting(BYTE_LEVEL._backend, BYTE_LEVEL.special_tokens), BYTE_LEVEL.encode("wörd €" * 200) + [255] * 500)
    assert max(lengths) <= 2 * detokenizer.LONGEST_RUN
