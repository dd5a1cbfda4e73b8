"""States through the model's own calls, on real exports of small random models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.errors import OptionError, StateError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.model import Model
from doge_export.runtime.prompts import Prompt
from doge_export.runtime.state import State
from tests.helpers.fakes import (
    BigramDecoder,
    ScriptedModel,
    byte_level_tokenizer,
    id_of,
    model_saying,
    random_table,
    state_of,
)
from tests.helpers.models import FORMS, exported, random_ids, tiny_model

TOKENIZER = byte_level_tokenizer()
END = id_of(TOKENIZER, "<|im_end|>")
WINDOW = 24
IDS = random_ids(90, vocab_size=256).tolist()
BOTH = pytest.mark.parametrize("length", [10, 60], ids=["within the window", "beyond the window"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A byte-level model whose cache has more heads beyond the window; nothing it says means anything."""
    network = tiny_model(**FORMS["small-doge"], vocab_size=259, keep_window_size=WINDOW)
    decoder = exported(network, tmp_path_factory.mktemp("export"))
    return Model(decoder, TOKENIZER, GenerationDefaults(eos_token_ids=frozenset({END})), "tiny")


@BOTH
def test_a_prefilled_state_and_the_rest_give_what_the_whole_prompt_gives(model: Model, length: int) -> None:
    whole = model.generate(IDS[: length + 5], max_new_tokens=20).token_ids
    state = model.prefill(IDS[:length])
    assert state.position == length
    assert model.generate(IDS[length : length + 5], state=state, max_new_tokens=20).token_ids == whole
    assert state.position == length + 5 + 19 and state.unfed_token == whole[-1]


def test_prefill_continues_a_state_in_place(model: Model) -> None:
    state = model.prefill(IDS[:10])
    assert model.prefill(np.array(IDS[10:40]), state) is state
    whole, token = model.prefill(IDS[:40]), np.array([7])
    np.testing.assert_allclose(model.decoder.forward(state, token), model.decoder.forward(whole, token), atol=1e-4)


@BOTH
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_next_prompt_follows_all_of_the_answer(model: Model, length: int, penalty: float) -> None:
    state = model.prefill(IDS[:length])
    options: dict[str, Any] = {"repetition_penalty": penalty, "ignore_eos": True}
    answer = model.generate([1, 2], state=state, max_new_tokens=6, **options).token_ids
    following = model.generate([3, 4], state=state, max_new_tokens=15, **options)
    whole = [*IDS[:length], 1, 2, *answer, 3, 4]
    assert following.token_ids == model.generate(whole, max_new_tokens=15, **options).token_ids
    assert following.prompt_tokens == 3


@pytest.mark.parametrize("nothing", [[], "", np.array([], np.int64)])
def test_an_answer_that_was_cut_goes_on_with_an_empty_prompt(model: Model, nothing: Prompt) -> None:
    whole = model.generate(IDS[:30], max_new_tokens=12, ignore_eos=True).token_ids
    state = model.new_state()
    parts = [model.generate(p, state=state, max_new_tokens=4, ignore_eos=True) for p in (IDS[:30], nothing, nothing)]
    assert [token for part in parts for token in part.token_ids] == whole


def test_an_empty_prompt_is_refused_where_nothing_is_left_to_feed(model: Model) -> None:
    with pytest.raises(OptionError, match="prompt is empty"):
        model.generate([], state=model.prefill([1]))


@BOTH
def test_copies_branch_and_files_too(model: Model, length: int, tmp_path: Path) -> None:
    state = model.prefill(IDS[:length])
    state.save(tmp_path / "state")
    questions = ([1, 2, 3], [4], [5, 6])
    whole = [model.generate(IDS[:length] + question, max_new_tokens=10).token_ids for question in questions]
    branches: tuple[Callable[[], State], ...] = (state.copy, lambda: model.load_state(tmp_path / "state"))
    for branch in branches:
        assert [model.generate(q, state=branch(), max_new_tokens=10).token_ids for q in questions] == whole
    assert state.position == length


def test_a_saved_answer_goes_on_with_its_unfed_token(model: Model, tmp_path: Path) -> None:
    state = model.prefill(IDS[:30])
    model.generate([1], state=state, max_new_tokens=5)
    state.save(tmp_path / "state")
    expected = model.generate([2], state=state, max_new_tokens=5).token_ids
    assert model.generate([2], state=model.load_state(tmp_path / "state"), max_new_tokens=5).token_ids == expected


def test_text_in_a_state_has_special_tokens_only_at_its_beginning(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, encode = [], TOKENIZER.encode

    def noting(text: str, add_special_tokens: bool = True) -> list[int]:
        asked.append(add_special_tokens)
        return encode(text)

    monkeypatch.setattr(TOKENIZER, "encode", noting)
    state = model.prefill("Once")
    list(model.stream(" upon", state=state, max_new_tokens=2))
    model.generate(" a time", max_new_tokens=2)
    assert asked == [True, False, True]


def test_a_stream_closed_early_leaves_a_state_that_ends_where_it_was_read(model: Model) -> None:
    whole = model.generate(IDS[:30], max_new_tokens=12, ignore_eos=True).token_ids
    state = model.new_state()
    stream = model.stream(IDS[:30], state=state, max_new_tokens=12, ignore_eos=True)
    next(stream)
    read = len(stream.token_ids)
    assert state.position == 30 + read - 1
    rest = model.generate([], state=state, max_new_tokens=12 - read, ignore_eos=True).token_ids
    assert stream.token_ids + rest == whole


def test_the_state_of_another_model_is_refused_before_anything_runs(model: Model, tmp_path: Path) -> None:
    other = Model(exported(tiny_model(seed=1, vocab_size=259), tmp_path), TOKENIZER)
    calls: tuple[Callable[..., object], ...] = (model.generate, model.stream, model.prefill)
    for call in calls:
        with pytest.raises(StateError, match="belongs to another model"):
            call("a", state=other.prefill([1]))
        with pytest.raises(OptionError, match="state is 'x'"):
            call("a", state="x")


@pytest.mark.slow
def test_threads_that_cross_the_window_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    network = tiny_model(**FORMS["small-doge"], vocab_size=259, keep_window_size=WINDOW)
    model = Model(exported(network, tmp_path), TOKENIZER)
    prompts = [random_ids(length, seed=length, vocab_size=256).tolist() for length in (3, 18, 20, 22, 24, 40)]
    states = [model.prefill(prompt[:3]) for prompt in prompts]
    results: dict[int, list[int]] = {}
    barrier = threading.Barrier(len(prompts))

    def work(index: int) -> None:
        barrier.wait()
        answer = model.generate([*prompts[index][3:], 9], state=states[index], max_new_tokens=40, ignore_eos=True)
        results[index] = answer.token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [model.generate([*prompt, 9], max_new_tokens=40, ignore_eos=True).token_ids for prompt in prompts]
    assert [results[i] for i in range(len(prompts))] == alone


# Chat


def dialogue(model: ScriptedModel, state: State, **options: Any) -> str:
    """Two turns of chat in one state, as the state's owner would hold them."""
    for question in ("Hi", "And now?"):
        model.chat([{"role": "user", "content": question}], state=state, **options)
    return model.kept_text(state)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_chat_in_a_state_feeds_what_a_conversation_feeds(end: str) -> None:
    model = model_saying("Hello!", "Bye.", end=end)
    text = dialogue(model, model.new_state())
    conversation = Conversation(model, model.options())
    for question in ("Hi", "And now?"):
        list(conversation.ask(question))
    assert text == model.kept_text(state_of(conversation))


def test_chat_in_a_state_closes_an_answer_that_was_cut() -> None:
    model = model_saying("Hello!Bye.")
    text = dialogue(model, model.new_state(), max_new_tokens=3)
    assert "assistant\nHel<|im_end|>\n<|im_start|>user\nAnd now?" in text


def test_chat_after_prefilled_messages_does_not_open_the_conversation_again() -> None:
    opening = "{% if messages[0].role != 'system' %}[default system]{% endif %}"
    model = model_saying("Hello!", template=opening + TOKENIZER.chat_templates["default"])
    system = [{"role": "system", "content": "Be brief."}]
    question = {"role": "user", "content": "Hi"}
    state = model.prefill(model.chat_template.render(system, add_generation_prompt=False))
    model.decoder.cursor = 0
    list(model.chat([question], state=state, stream=True))
    whole = model.new_state()
    model.decoder.cursor = 0
    model.chat([*system, question], state=whole)
    assert model.kept_text(state) == model.kept_text(whole)


def test_chat_in_a_state_is_refused_by_a_template_that_rewrites_the_past() -> None:
    template = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    model = model_saying("Hello!", template=template)
    with pytest.raises(OptionError, match=r"cannot continue a state.*without a state"):
        model.chat([{"role": "user", "content": "Hi"}], state=model.prefill("a"))


# Conversations on a real export


@pytest.mark.parametrize("resume", [False, True])
def test_a_conversation_far_beyond_the_window_answers_as_if_computed_afresh(
    model: Model, tmp_path: Path, resume: bool
) -> None:
    options = model.options(max_new_tokens=10, ignore_eos=True)
    conversation = Conversation(model, options)
    for index, question in enumerate(("Hi", "And now?", "What else?", "Why?")):
        if resume and index:
            conversation.save(tmp_path / str(index))
            conversation = Conversation.resume(model, options, tmp_path / str(index))
        answer = conversation.ask(question)
        list(answer)
        prompt = conversation._ids[:-10]
        assert model.generate(prompt, max_new_tokens=10, ignore_eos=True).token_ids == answer.result.token_ids
    assert conversation.position > 4 * WINDOW


def test_undo_beyond_the_window_gives_the_same_answer_again(model: Model) -> None:
    conversation = Conversation(model, model.options(max_new_tokens=10, ignore_eos=True))
    list(conversation.ask("Hi there, how are you?"))
    first = "".join(conversation.ask("And now?"))
    conversation.undo()
    assert "".join(conversation.ask("And now?")) == first
    for _ in range(2):
        conversation.undo()
    assert (conversation.position, conversation.turns) == (0, 0)


def test_a_bigram_model_takes_any_state_of_its_own() -> None:
    model = Model(BigramDecoder(random_table(259)), TOKENIZER)
    state = model.prefill("abc")
    assert model.generate("d", state=state, max_new_tokens=3).prompt_tokens == 1


def test_an_empty_prompt_after_a_prefilled_one_is_refused_with_the_remedy(model: Model) -> None:
    state = model.prefill(IDS[:10])
    empty: str | list[int]
    for empty in ("", []):
        with pytest.raises(OptionError, match="all 10 tokens of the state are fed; give the token after them"):
            model.generate(empty, state=state)
    assert state.position == 10
