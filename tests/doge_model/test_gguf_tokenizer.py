"""The tokenizer of a GGUF file gives the tokens that llama.cpp gives, whose rules are written down here once more."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import regex  # type: ignore[import-untyped]  # it ships no types
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doge_common.errors import CheckpointError
from doge_model import Checkpoint, load_checkpoint
from doge_model.gguf import demo_gguf_path
from doge_model.gguf_tokenizer import PRE_TOKENIZERS, PreTokenizer, backend_pre_tokenizer
from tests.helpers.checkpoints import (
    add_byte_level_tokenizer,
    add_sentencepiece_tokenizer,
    byte_level_llama,
    save_gguf,
    sentencepiece_vocabulary,
    tiny_llama,
)

# src/llama-vocab.cpp (llm_tokenizer_bpe): each pattern cuts the pieces of the one before; unmatched text is a piece.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_CPP = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [WORDS + r"\p{N}{1,3}" + REST],
    "qwen2": [WORDS + r"\p{N}" + REST],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
TEXTS = st.lists(st.sampled_from([*"aBhé日 \n\r\t.,!$=<_-'½²١Ⅻ😀\u00a0\u0301", "12", "  ", "'s", "'LL", "ing"])).map(
    "".join
)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut(text: str, patterns: list[str]) -> list[str]:
    """llama.cpp's unicode_regex_split."""
    pieces = [text]
    for pattern in patterns:
        parts = [regex.split(f"({pattern})", piece) for piece in pieces]
        pieces = [part for some in parts for part in some if part]
    return pieces


@pytest.mark.slow
@pytest.mark.parametrize("name", LLAMA_CPP)
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_text_is_cut_as_llama_cpp_cuts_it(name: str, text: str) -> None:
    pre = next(pre for pre in PRE_TOKENIZERS if name in pre.names.split())
    pieces = backend_pre_tokenizer(pre).pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in pieces] == cut(text, LLAMA_CPP[name])


def llama_cpp_pieces(text: str, scores: dict[str, float]) -> list[str]:
    """llm_tokenizer_spm: of all neighbours that make a token the best scored merge first; unknown ones become bytes."""
    pieces = list(text.replace(" ", "\u2581"))
    while pairs := [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in scores]:
        at = -max(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    as_bytes = [[p] if p in scores else [f"<0x{byte:02X}>" for byte in p.encode()] for p in pieces]
    return [piece for some in as_bytes for piece in some]


@pytest.fixture(scope="module", params=[True, False], ids=["space prefix", "no space prefix"])
def sentencepiece(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer, and the text that it puts before every other."""

    def add(writer: GGUFWriter) -> None:
        add_sentencepiece_tokenizer(writer)
        writer.add_add_space_prefix(request.param)

    path = tmp_path_factory.mktemp("sentencepiece") / "model.gguf"
    save_gguf(path, tiny_llama(vocab_size=len(sentencepiece_vocabulary())), extra=add)
    tokenizer = load_checkpoint(path).tokenizer
    assert tokenizer is not None
    return tokenizer, " " if request.param else ""


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="hilo \n½日", min_size=1))
def test_sentencepiece_gives_the_pieces_of_llama_cpp_and_the_text_back(
    sentencepiece: tuple[PreTrainedTokenizerFast, str], text: str
) -> None:
    tokenizer, prefix = sentencepiece
    assert tokenizer.tokenize(text) == llama_cpp_pieces(prefix + text, sentencepiece_vocabulary())
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_sentencepiece_begins_a_text_with_bos_and_each_text_after_a_special_token_with_its_prefix(
    sentencepiece: tuple[PreTrainedTokenizerFast, str],
) -> None:
    tokenizer, prefix = sentencepiece
    piece = prefix.replace(" ", "\u2581") + "hi"
    assert tokenizer.convert_ids_to_tokens(tokenizer("hi</s>hi").input_ids) == ["<s>", piece, "</s>", piece]


def tokenizer_of(
    path: Path, pre: str | None = "gpt-2", more: Callable[[GGUFWriter], None] = lambda writer: None
) -> PreTrainedTokenizerFast:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer, pre)
        more(writer)

    tokenizer = load_checkpoint(save_gguf(path, byte_level_llama(), extra=add)).tokenizer
    assert tokenizer is not None
    return tokenizer


def test_the_tokenizer_reads_and_writes_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "model.gguf")
    text = "<|im_start|>a ab 12 ½ Zürich\n<|im_end|>"
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == text
    assert "\u0120a" in tokenizer.tokenize("b a")


def test_smollm_cuts_as_its_published_tokenizer_does(tmp_path: Path) -> None:
    published = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ours = tokenizer_of(tmp_path / "model.gguf", "smollm").backend_tokenizer.pre_tokenizer
    for text in ("It's 1234, ½ and ²; \n\n  x=٣٤ def f():\n\treturn 5  ", "don't   stop", "Ⅷ 7seven7"):
        assert ours.pre_tokenize_str(text) == published.pre_tokenize_str(text)


@pytest.mark.slow
@pytest.mark.parametrize("pre", PRE_TOKENIZERS, ids=lambda pre: pre.names.split()[0])
def test_no_pre_tokenizer_loses_text(pre: PreTokenizer, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "model.gguf", pre.names.split()[-1])
    text = "It's 12345 o'clock,\n\n  says ½ of Zürich; ABCdef__x 中文 ♫ "
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("pattern", {split for pre in PRE_TOKENIZERS for split in pre.splits})
def test_every_split_pattern_is_a_regular_expression(pattern: str) -> None:
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str("two words")
    assert "".join(piece for piece, _ in pieces) == "two words"


def test_an_unknown_pre_tokenizer_is_refused_with_those_known(tmp_path: Path) -> None:
    path = save_gguf(
        tmp_path / "model.gguf", byte_level_llama(), extra=lambda w: add_byte_level_tokenizer(w, "kimi-k2")
    )
    assert "tokenizer.ggml.pre is 'kimi-k2'; it must be one of gpt-2," in refusal(path)


def test_a_file_that_names_no_pre_tokenizer_gets_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no tokenizer.ggml.pre"):
        tokenizer_of(tmp_path / "model.gguf", pre=None)


@pytest.mark.parametrize(
    ("pre", "flags", "ids"),
    [
        ("gpt-2", {}, []),
        ("llama-bpe", {}, [1]),
        ("llama-bpe", {"bos": False}, []),
        ("gpt-2", {"bos": True}, [1]),
        ("gpt-2", {"eos": True}, [2]),
        ("gpt-2", {"bos": True, "eos": True}, [1, 2]),
    ],
)
def test_begin_and_end_tokens_are_added_as_the_file_says(
    pre: str, flags: dict[str, bool], ids: list[int], tmp_path: Path
) -> None:
    def add_flags(writer: GGUFWriter) -> None:
        if "bos" in flags:
            writer.add_add_bos_token(flags["bos"])
        if "eos" in flags:
            writer.add_add_eos_token(flags["eos"])

    assert tokenizer_of(tmp_path / "model.gguf", pre, add_flags)("").input_ids == ids


def test_a_llama3_piece_that_is_a_token_is_not_merged_up_to_it(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "model.gguf", "llama-bpe")
    assert tokenizer.backend_tokenizer.model.ignore_merges
    assert not tokenizer_of(tmp_path / "other.gguf", "smollm").backend_tokenizer.model.ignore_merges


def test_other_files_of_the_folder_play_no_part(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "x", "auto_map": {"AutoTokenizer": ["a.B", "a.B"]}}))
    assert tokenizer_of(tmp_path / "model.gguf").tokenize("ab") == ["ab"]


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_another_kind_of_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(kind)
        writer.add_token_list(["a"])

    path = save_gguf(tmp_path / "model.gguf", tiny_llama(), extra=add)
    assert f"tokenizer.ggml.model is '{kind}'; it must be 'gpt2' or 'llama'" in refusal(path)


def test_a_tokenizer_without_merges_or_scores_is_refused(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["a", "b"])

    assert "the tokenizer is damaged" in refusal(save_gguf(tmp_path / "model.gguf", tiny_llama(), extra=add))


def test_a_file_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(save_gguf(tmp_path / "model.gguf", tiny_llama())).tokenizer is None


@pytest.mark.parametrize(
    ("key", "more", "sentence"),
    [
        ("merges", lambda w: w.add_token_merges(["\u0120 a", "zz yy"]), "the tokenizer is damaged"),
        ("merges", lambda w: None, "the tokenizer is damaged"),
        ("tokens", lambda w: w.add_token_list(["a", "a", "b"]), "tokenizer.ggml.tokens has 'a' twice"),
        (
            "tokens",
            lambda w: w.add_token_list([str(i) for i in range(500)]),
            "has 500 tokens; it must have at most 262, the rows of token_embd.weight",
        ),
        ("token_type", lambda w: w.add_token_types([1]), "the tokenizer is damaged"),
        ("eos_token_id", lambda w: w.add_eos_token_id(5000), "eos_token_id is 5000; it must be from 0 to 261"),
        (
            "bos_token_id",
            lambda w: w.add_string("tokenizer.ggml.bos_token_id", "a"),
            "is 'a'; it must be a whole number",
        ),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    key: str, more: Callable[[GGUFWriter], None], sentence: str, tmp_path: Path
) -> None:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        del writer.kv_data[0][f"tokenizer.ggml.{key}"]
        more(writer)

    assert sentence in refusal(save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add))


@pytest.mark.slow
def test_the_demo_is_cut_into_the_tokens_of_its_published_tokenizer(demo_checkpoint: Checkpoint) -> None:
    assert demo_gguf_path().is_file()
    tokenizer = demo_checkpoint.tokenizer
    assert tokenizer is not None
    assert tokenizer("Hello world! 123").input_ids == [19556, 905, 17, 216, 33, 34, 35]
    assert tokenizer("Café déjà vu.").input_ids == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert (demo_checkpoint.source, demo_checkpoint.form) == ("smollm2-135m", "llama")
