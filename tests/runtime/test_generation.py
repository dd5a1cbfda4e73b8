from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError, PackageError
from doge_export.runtime import sampling
from doge_export.runtime.generation import GeneratedToken, SingleSteps, generate_tokens
from doge_export.runtime.generation_options import GenerationDefaults, GenerationOptions
from doge_export.runtime.loading import load
from doge_export.runtime.model import Model
from doge_export.runtime.state import State
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import (
    BigramDecoder,
    ScriptedDecoder,
    ScriptedModel,
    byte_level_tokenizer,
    defaults_for,
    id_of,
    random_table,
    sentencepiece_tokenizer,
)

NO_STOP: frozenset[int] = frozenset()
# 0 -> 2 -> 1 -> 3 -> 0: every token names its successor.
CYCLE = np.eye(4, dtype=np.float32)[[2, 3, 1, 0]] * 5
TOKENIZER = byte_level_tokenizer()
END = id_of(TOKENIZER, "<|im_end|>")


def new_tokens(
    decoder: BigramDecoder,
    prompt_ids: list[int],
    options: GenerationOptions,
    stop_ids: frozenset[int] = NO_STOP,
    state: State | None = None,
) -> tuple[list[GeneratedToken], State]:
    state = state or decoder.new_state()
    return list(generate_tokens(SingleSteps(decoder), state, prompt_ids, options, stop_ids)), state


def writer_of(text: str, tokenizer: Tokenizer = TOKENIZER, **options: Any) -> ScriptedModel:
    """A model whose greedy answer to anything is `text` and the end-of-sequence token."""
    script = [*tokenizer.encode(text), id_of(tokenizer, tokenizer.special_tokens["eos_token"])]
    return ScriptedModel(ScriptedDecoder(script, vocab_size=400), tokenizer, defaults_for(tokenizer, **options))


def dice(**options: Any) -> Model:
    """A model that draws from a random bigram table over the byte-level tokens."""
    return Model(BigramDecoder(random_table(259)), TOKENIZER, GenerationDefaults(GenerationOptions(**options)))


# The loop


def test_greedy_follows_the_largest_logits_and_says_why_it_ends() -> None:
    tokens, _ = new_tokens(BigramDecoder(CYCLE), [0], GenerationOptions(max_new_tokens=3))
    assert [(token.token_id, token.finish_reason) for token in tokens] == [(2, None), (1, None), (3, "length")]


def test_a_stop_token_ends_the_answer_and_is_part_of_it() -> None:
    tokens, _ = new_tokens(BigramDecoder(CYCLE), [0], GenerationOptions(), frozenset({1, 3}))
    assert [(token.token_id, token.finish_reason) for token in tokens] == [(2, None), (1, "stop")]


def test_a_stop_token_in_the_very_last_place_is_a_stop() -> None:
    tokens, _ = new_tokens(BigramDecoder(CYCLE), [0], GenerationOptions(max_new_tokens=2), frozenset({1}))
    assert tokens[-1].finish_reason == "stop"


def test_the_last_token_is_not_fed_but_remembered() -> None:
    decoder = BigramDecoder(CYCLE)
    _, state = new_tokens(decoder, [3, 0], GenerationOptions(max_new_tokens=3))
    assert decoder.fed == decoder.kept_tokens(state) == [3, 0, 2, 1]
    assert state.unfed_token == 3


def test_a_full_window_ends_nothing() -> None:
    tokens, state = new_tokens(BigramDecoder(CYCLE, keep_window_size=5), [3, 0, 2], GenerationOptions())
    assert [token.finish_reason for token in tokens] == [None] * 99 + ["length"]
    assert state.position == 102


def test_an_existing_state_goes_on_where_it_was() -> None:
    decoder = BigramDecoder(CYCLE)
    state = decoder.new_state()
    first = list(generate_tokens(SingleSteps(decoder), state, [0], GenerationOptions(max_new_tokens=2), NO_STOP))
    rest = generate_tokens(
        SingleSteps(decoder), state, [first[-1].token_id], GenerationOptions(max_new_tokens=1), NO_STOP
    )
    assert next(rest).token_id == 3
    assert decoder.fed == [0, 2, 1]


def test_greedy_without_penalty_looks_at_the_decoders_own_array(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.float32]] = []

    def noting(logits: NDArray[np.float32]) -> int:
        seen.append(logits)
        return 0

    monkeypatch.setattr(sampling, "greedy", noting)
    decoder = ScriptedDecoder([0], vocab_size=4)
    row = np.zeros((1, 4), np.float32)
    monkeypatch.setattr(decoder, "logits", lambda token_ids: row)
    new_tokens(decoder, [0], GenerationOptions(max_new_tokens=2))
    assert all(np.shares_memory(logits, row) for logits in seen) and len(seen) == 2


def test_the_repetition_penalty_knows_prompt_and_answer() -> None:
    table = np.array([[8, 6, 5, 3]] * 4, np.float32)
    tokens, _ = new_tokens(BigramDecoder(table), [1], GenerationOptions(max_new_tokens=4, repetition_penalty=2.0))
    assert [token.token_id for token in tokens] == [0, 2, 0, 0]


def test_the_repetition_penalty_knows_what_the_state_held_before() -> None:
    decoder = BigramDecoder(np.array([[3, 2, 1]] * 3, np.float32))
    state, options = decoder.new_state(), GenerationOptions(max_new_tokens=1, repetition_penalty=2.0)
    assert new_tokens(decoder, [2], options, state=state)[0][0].token_id == 0
    decoder.forward(state, np.array([0]))
    assert new_tokens(decoder, [2], options, state=state)[0][0].token_id == 1


# generate, stream, chat


def test_the_result_has_text_tokens_and_counts() -> None:
    result = writer_of("Paris.").generate("The capital of France is")
    assert (result.text, result.finish_reason) == ("Paris.", "stop")
    assert result.token_ids == [*TOKENIZER.encode("Paris."), END]
    assert (result.prompt_tokens, result.completion_tokens) == (24, 7)
    assert result.prefill_tokens_per_s > 0 and result.decode_tokens_per_s > 0


def test_a_single_token_has_no_decoding_speed() -> None:
    assert writer_of("Paris.").generate("x", max_new_tokens=1).decode_tokens_per_s == 0


def test_the_readers_pauses_do_not_count_as_decoding() -> None:
    stream = writer_of("Paris is large").stream("x")
    for _ in stream:
        time.sleep(0.01)
    assert stream.result.decode_tokens_per_s > 200


def test_ignore_eos_goes_on_and_the_special_token_does_not_show() -> None:
    result = writer_of("ab").generate("x", ignore_eos=True, max_new_tokens=5)
    assert (result.text, result.finish_reason) == ("abab", "length")
    assert END in result.token_ids


@pytest.mark.parametrize("stop", [["\n\n"], ["\n\nU", "ser"], ["zzz", "\n"]])
def test_a_stop_string_and_what_follows_are_not_in_the_text(stop: list[str]) -> None:
    result = writer_of("fine\n\nUser: more").generate("x", stop=stop)
    assert (result.text, result.finish_reason) == ("fine", "stop")


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it() -> None:
    assert TOKENIZER.decode(writer_of("one two three").generate("x", stop=["wo"]).token_ids) == "one two"


def test_a_byte_token_that_completes_a_stop_string_ends_the_answer_at_once() -> None:
    tokenizer = sentencepiece_tokenizer()
    model = writer_of("hello\nworld", tokenizer)
    result = model.generate("x", stop=["\n"])
    assert (result.text, tokenizer.decode(result.token_ids)) == ("hello", "hello\n")


def test_a_stop_string_that_is_a_special_token_stops_there_although_it_never_shows() -> None:
    result = writer_of("ab").generate("x", ignore_eos=True, stop=["<|im_end|>"])
    assert (result.text, result.finish_reason, result.token_ids[-1]) == ("ab", "stop", END)


def test_the_pieces_of_a_stream_are_the_text_and_split_no_character() -> None:
    model = writer_of("Grüße, 日本 👩‍👩‍👧!")
    pieces = list(model.stream("x"))
    assert "".join(pieces) == model.generate("x").text
    assert len(pieces) > 10 and not any("\ufffd" in piece or not piece for piece in pieces)


def test_a_stream_holds_back_what_may_be_a_stop_string() -> None:
    assert list(writer_of("ab##c").stream("x", stop=["###"])) == ["a", "b", "##c"]


def test_a_stream_runs_the_model_only_as_far_as_it_is_read() -> None:
    model = writer_of("abcdef")
    stream = model.stream("xyz")
    assert (next(stream), next(stream)) == ("a", "b")
    assert len(model.decoder.fed) == 3 + 1
    with pytest.raises(RuntimeError, match="last piece"):
        _ = stream.result


def test_stream_and_generate_give_the_same_random_text() -> None:
    model = dice(temperature=1.0, top_k=20)
    assert "".join(model.stream("x", seed=5)) == model.generate("x", seed=5).text


def test_the_same_seed_gives_the_same_text_and_no_seed_another() -> None:
    model = dice(temperature=1.5, max_new_tokens=40)
    first, second = (model.generate("x", seed=7).token_ids for _ in range(2))
    assert first == second != model.generate("x", seed=8).token_ids
    assert model.generate("x").token_ids != model.generate("x").token_ids


def test_top_k_of_one_is_greedy() -> None:
    model = dice(max_new_tokens=20)
    assert model.generate("x", temperature=2.0, top_k=1).token_ids == model.generate("x").token_ids


def test_a_chat_is_rendered_by_the_template_without_further_special_tokens() -> None:
    model = writer_of("Hello!")
    result = model.chat([{"role": "user", "content": "Hi"}])
    fed = model.decoder.fed[: result.prompt_tokens]
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (result.text, TOKENIZER.decode(fed, skip_special_tokens=False)) == ("Hello!", expected)


def test_a_chat_can_be_streamed() -> None:
    pieces = writer_of("Hello!").chat([{"role": "user", "content": "Hi"}], stream=True)
    assert list(pieces) == list("Hello!")


def test_a_long_stream_joins_its_pieces_once() -> None:
    stream = writer_of("ab").stream("x", ignore_eos=True, max_new_tokens=3000)
    assert "".join(stream) == stream.text == stream.result.text == "ab" * 1000


def test_logits_of_every_token_are_a_copy_of_their_own() -> None:
    table = random_table(4)
    logits = Model(BigramDecoder(table)).logits([0, 3, 1])
    np.testing.assert_array_equal(logits, table[[0, 3, 1]])
    assert logits.dtype == np.float32 and not np.shares_memory(logits, table)


# Refusals


@pytest.mark.parametrize("prompt", ["", [], np.array([], np.int64)])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(OptionError, match="prompt is empty"):
        writer_of("a").generate(prompt)


@pytest.mark.parametrize("prompt", [[0, -1], [400], [1.5], [True], ("a",), 7, b"abc", {"a": 1}, None, np.array([[1]])])
def test_a_prompt_of_something_else_is_refused(prompt: Any) -> None:
    with pytest.raises(
        OptionError, match=r"; it must be (from 0 to 399|a whole number|text, a list of token ids, or a list of these)$"
    ):
        writer_of("a").generate(prompt)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(OptionError, match=r"holds '\\udcff', half a character"):
        writer_of("a").generate("ab\udcff")


def test_a_stream_refuses_wrong_options_before_it_is_read() -> None:
    with pytest.raises(OptionError, match=r"top_p is 1\.5"):
        writer_of("a").stream("x", top_p=1.5)


def test_without_tokenizer_token_ids_work_and_text_is_refused() -> None:
    model = Model(BigramDecoder(CYCLE))
    assert model.generate([0], max_new_tokens=2).token_ids == [2, 1]
    assert model.generate(np.array([0]), max_new_tokens=1).text == ""
    for call in (lambda: model.generate("x"), lambda: model.stream([0]), lambda: model.generate([0], stop=["a"])):
        with pytest.raises(PackageError, match=r"no tokenizer\.json; give token ids"):
            call()


def test_a_model_without_chat_template_refuses_to_chat() -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(chat_template=None))
    with pytest.raises(PackageError, match="no chat template"):
        model.chat([{"role": "user", "content": "Hi"}])


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"there is no folder .*; give one that doge-export wrote"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_a_wrong_number_of_threads_is_refused(tmp_path: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="threads is"):
        load(tmp_path, threads=threads)


@pytest.mark.slow
def test_the_runtime_needs_no_library_of_training_or_export() -> None:
    heavy = "{'torch', 'transformers', 'onnx', 'huggingface_hub', 'gguf'}"
    code = f"import sys, doge_export.commands.chat; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_a_start_imports_nothing_that_only_some_calls_need() -> None:
    late = {"asyncio", "concurrent.futures", "importlib.metadata", "jinja2", "safetensors", "tokenizers"}
    late |= {f"doge_export.runtime.{name}" for name in ("json_schemas", "followed_schemas", "processor_products")}
    code = f"import sys, onnxruntime; others = set(sys.modules); import doge_export; late = {late}; "
    code += "print(sorted(late & (set(sys.modules) - others)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
