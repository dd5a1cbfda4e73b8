"""The model as a library meets it: what it says of itself, and streams that are closed or read beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, model_saying, random_table

HI = [{"role": "user", "content": "Hi"}]
SHOUTING = "{% for message in messages %}{{ message['content'].upper() }}{% endfor %}<|im_start|>"


def test_a_model_says_what_it_is() -> None:
    model = model_saying("Hello!", window=99)
    assert repr(model) == ("Model('scripted', vocab_size=259, context_size=99, tokenizer=True, chat_template=True)")
    assert (model.context_size, len(model.tokenizer)) == (99, 259)
    assert "tokenizer=False, chat_template=False" in repr(Model(BigramDecoder(random_table(3))))


def test_count_tokens_is_the_number_that_is_fed() -> None:
    model = model_saying("Hello!", "Bye.")
    assert model.count_tokens("") == 0
    assert model.count_tokens("Grüße") == model.generate("Grüße").prompt_tokens == 7
    assert model.count_tokens(HI) == model.chat(HI).prompt_tokens
    assert model.count_tokens(HI, chat_template=SHOUTING) == 3
    assert model.count_tokens([5, 6]) == 2


def test_a_chat_template_can_be_named_or_written_for_one_call() -> None:
    model = model_saying("Hello!", "Bye.")
    model.tokenizer.chat_templates["loud"] = SHOUTING
    for template in ("loud", SHOUTING):
        model.decoder.fed.clear()
        model.chat(HI, chat_template=template)
        assert model.tokenizer.decode(model.decoder.fed[:3], False) == "HI<|im_start|>"
    model.decoder.fed.clear()
    model.chat(HI)
    assert model.tokenizer.decode(model.decoder.fed, False).startswith("<|im_start|>user\nHi")


def test_a_chat_template_does_for_a_model_that_has_none() -> None:
    model = model_saying("Hello!", template=None)
    assert model.chat(HI, chat_template=SHOUTING).text == "Hello!"
    with pytest.raises(PackageError, match="has no chat template"):
        model.chat(HI)


@pytest.mark.parametrize("template", ["quiet", 3, ""])
def test_a_chat_template_that_is_none_is_refused_with_the_names_there_are(template: Any) -> None:
    with pytest.raises(
        OptionError, match=r"it must be the text of a Jinja template, or one of the names \['default'\]"
    ):
        model_saying("Hello!").chat(HI, chat_template=template)


def test_stop_may_be_one_string() -> None:
    assert model_saying("Hello!").generate("Hi", stop="lo").text == "Hel"


@pytest.mark.parametrize("wrong", [{"a": 1}, 3, None, (HI,), b"Hi"])
def test_a_prompt_of_another_type_says_what_it_may_be(wrong: Any) -> None:
    message = "must be text, a list of token ids, or a list of these|must be a whole number"
    with pytest.raises(OptionError, match=message):
        model_saying("Hello!").stream(wrong)


def test_messages_given_as_a_prompt_are_sent_to_chat() -> None:
    mistaken: Any = HI
    for ask in (model_saying("Hello!").stream, model_saying("Hello!").generate):
        with pytest.raises(OptionError, match="the prompt is a list of messages; give them to chat"):
            ask(mistaken)


def test_a_closed_stream_keeps_its_text_and_computes_nothing_more() -> None:
    model = model_saying("Hello!")
    with model.stream("Hi") as stream:
        assert next(stream) == "H"
    fed = len(model.decoder.fed)
    assert list(stream) == [] and len(model.decoder.fed) == fed
    assert (stream.text, len(stream.token_ids)) == ("H", 1)
    with pytest.raises(RuntimeError, match="no result before its last piece"):
        _ = stream.result


def test_a_stream_that_was_read_to_its_end_may_be_closed_too() -> None:
    with model_saying("Hello!").stream("Hi") as stream:
        assert "".join(stream) == "Hello!"
    assert stream.result.text == "Hello!"


async def pieces_of(stream: Any) -> list[Any]:
    return [piece async for piece in stream]


def slow(model: Any, gate: Callable[[], object]) -> None:
    """Let every call of the decoder wait for `gate`."""
    forward = model.decoder.forward

    def waiting(*arguments: Any) -> NDArray[np.float32]:
        gate()
        return forward(*arguments)

    model.decoder.forward = waiting


def test_pieces_come_to_async_for_as_to_for() -> None:
    assert "".join(asyncio.run(pieces_of(model_saying("Hello!").stream("Hi")))) == "Hello!"
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer())
    assert asyncio.run(pieces_of(model.stream(["a", "b"]))) == list(model.stream(["a", "b"]))


def test_the_event_loop_goes_on_while_a_piece_is_computed() -> None:
    model, gate = model_saying("Hello!"), threading.Event()
    slow(model, lambda: gate.wait(10))

    async def both() -> str:
        reading = asyncio.ensure_future(pieces_of(model.stream("Hi")))
        await asyncio.sleep(0.05)
        assert not reading.done()
        gate.set()  # were the loop held up, nobody would come here
        return "".join(await reading)

    assert asyncio.run(both()) == "Hello!"


def test_an_error_of_the_model_reaches_async_for() -> None:
    with pytest.raises(OptionError, match="no token is left"):
        asyncio.run(pieces_of(model_saying("Hello!").stream("Hi", suppress_tokens=list(range(259)))))


def test_a_cancelled_reader_leaves_no_step_running_behind_its_back() -> None:
    model, running, gate = model_saying("Hello!"), threading.Event(), threading.Event()

    def wait() -> None:
        running.set()
        gate.wait(10)

    slow(model, wait)

    async def cancelled() -> int:
        with model.stream("Hi") as stream:
            reading = asyncio.ensure_future(pieces_of(stream))
            await asyncio.to_thread(running.wait, 10)
            reading.cancel()
            asyncio.get_running_loop().call_later(0.05, gate.set)
            with pytest.raises(asyncio.CancelledError):
                await reading
            return len(stream.token_ids)

    assert asyncio.run(cancelled()) == 1


def test_more_streams_than_the_loop_has_threads_are_read_at_once() -> None:
    model, barrier = Model(BigramDecoder(random_table(259)), byte_level_tokenizer()), threading.Barrier(40, timeout=10)
    slow(model, barrier.wait)

    async def many() -> list[list[Any]]:
        return await asyncio.gather(*(pieces_of(model.stream("a", max_new_tokens=2)) for _ in range(40)))

    assert len(asyncio.run(many())) == 40


def test_a_template_of_a_call_that_is_no_jinja_is_the_fault_of_the_call() -> None:
    with pytest.raises(OptionError, match=r"not valid Jinja \(.+\); give another as chat_template$"):
        model_saying("Hello!").chat([{"role": "user", "content": "Hi"}], chat_template="{% for %}")
