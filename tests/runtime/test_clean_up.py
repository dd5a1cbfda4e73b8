"""Spaces before punctuation: cleaned where transformers cleans them, and in pieces as in one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doge_export.runtime.clean_up import CleanUp, clean_up
from doge_export.runtime.detokenizer import Detokenizer
from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.model import Model
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import ScriptedDecoder

WORDS = ["[UNK]", "Hello", ",", "world", ".", "It", "is", "n't", "'", "s", "'s", "'ve", "n", "t", "?", "!", "a", "##b"]
SPACED = "Hello , world . It is n't"

pieces_of_text = st.lists(st.text(" .?!,'ntmsvrex", max_size=4), max_size=12)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(pieces_of_text)
@example([" '", "   x"])
@example([" n", " ' t"])
@example(["a  ", "' s"])
def test_pieces_give_the_whole_text_cleaned(pieces: Any) -> None:
    stream = CleanUp()
    cleaned = [stream.push(piece) for piece in pieces]
    assert "".join(cleaned) + stream.finish() == clean_up("".join(pieces))


def test_a_word_comes_out_as_soon_as_nothing_can_change_it() -> None:
    stream = CleanUp()
    pushed = [stream.push(piece) for piece in ("Hello", " ,", " world", " is", " n", "'t", " so")]
    assert pushed == ["Hello", "", ", world", "", " is", "n't", ""]
    assert stream.finish() == " so"


def test_little_is_held_back_of_endless_spaces() -> None:
    stream = CleanUp()
    assert sum(len(stream.push(" ")) for _ in range(1000)) >= 990


def backend_of(kind: Any) -> Any:
    if kind == "WordPiece":
        backend = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
        backend.decoder = decoders.WordPiece(cleanup=False)
    elif kind == "Unigram":
        backend = tokenizers.Tokenizer(models.Unigram([("▁" + word, 0.0) for word in WORDS], 0, False))
        backend.decoder = decoders.Metaspace()
    else:
        backend = tokenizers.Tokenizer(models.BPE({"▁" + word: i for i, word in enumerate(WORDS)}, []))
        backend.decoder = decoders.Metaspace()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def both(folder: Any, kind: Any, **settings: Any) -> Any:
    """The same folder as a tokenizer of transformers and as one of ours."""
    PreTrainedTokenizerFast(tokenizer_object=backend_of(kind), **settings).save_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert ours is not None
    return PreTrainedTokenizerFast.from_pretrained(folder), ours


FOR_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
@pytest.mark.parametrize("asked", [{}, {"clean_up_tokenization_spaces": True}, {"clean_up_tokenization_spaces": False}])
@pytest.mark.parametrize("forced", [{}, {FOR_BPE: True}])
def test_text_is_cleaned_where_transformers_cleans_it(kind: str, asked: Any, forced: Any, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, kind, **asked, **forced)
    ids = list(range(1, len(WORDS)))
    expected = theirs.decode(ids)
    assert (ours.decode(ids), ours.decode(ids, clean_up_tokenization_spaces=False)) == (
        expected, theirs.decode(ids, clean_up_tokenization_spaces=False),
    )  # fmt: skip
    stream = Detokenizer(ours)
    assert "".join(map(stream.push, ids)) + stream.finish() == expected


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.integers(1, len(WORDS) - 1), max_size=20))
@pytest.mark.parametrize("kind", ["WordPiece", "Unigram"])
def test_any_tokens_in_pieces_give_the_cleaned_text(kind: str, ids: Any) -> None:
    tokenizer = Tokenizer(backend_of(kind), clean_up_tokenization_spaces=True)
    stream = Detokenizer(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


def saying(text: Any, **options: Any) -> Any:
    tokenizer = Tokenizer(backend_of("WordPiece"), clean_up_tokenization_spaces=True)
    ids = [WORDS.index(word) for word in text.split()]
    return Model(ScriptedDecoder(ids, len(WORDS)), tokenizer, GenerationDefaults()), len(ids)


def test_answers_are_cleaned_and_their_pieces_too() -> None:
    model, length = saying(SPACED)
    assert model.generate([1], max_new_tokens=length).text == "Hello, world. It isn't"
    model, length = saying(SPACED)
    assert list(model.stream([1], max_new_tokens=length)) == ["Hello", ", world", ".", " It", " isn't"]


def test_a_stop_string_is_looked_for_in_the_cleaned_text() -> None:
    model, length = saying(SPACED)
    result = model.generate([1], max_new_tokens=length, stop=["d."])
    assert (result.text, result.finish_reason, result.completion_tokens) == ("Hello, worl", "stop", 4)
