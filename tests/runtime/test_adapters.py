"""One base and many adapters: each computes PEFT's forward, by every way to feed it, and none knows of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

import doge_export
from doge_export.commands.chat import main as chat
from doge_export.commands.generate import main as generate
from doge_export.errors import CheckpointError, OptionError, PackageError, StateError
from doge_export.export import ExportOptions, export
from doge_export.runtime.adapter_arrays import aligned
from doge_export.runtime.adapters import ADAPTED_FILES
from doge_export.runtime.description import PORTABLE_FILE
from doge_export.runtime.model import Model
from doge_export.serve.limits import Limits
from doge_export.serve.start import served_app
from tests.helpers.adapters import IDS, doge_of, llama_base, logits, lora_config, save_random_adapter
from tests.helpers.checkpoints import save_doge
from tests.helpers.models import FORMS, random_ids, relative_difference, torch_logits

pytestmark = pytest.mark.usefixtures("each_way")


class World(NamedTuple):
    """A model with two adapters, and PEFT's models of them by name; None is the base."""

    model: Model
    folder: Path
    torch: dict[str | None, Any]


def exported(base: Path, adapters: dict[str, Path], out: Path, weights: str = "fp32") -> Model:
    sources = {name: str(path) for name, path in adapters.items()}
    export(ExportOptions(str(base), out, weights=weights, adapters=sources, report_tokens=0, threads=1))
    return doge_export.load(out, threads=1)


@pytest.fixture(scope="module")
def world(each_way: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    found: dict[str | None, Any] = {None: doge_of_base(folder / "base")}
    for seed, name in enumerate(("legal", "support")):
        config = lora_config(r=4 + 3 * seed, rank_pattern={"up_proj": 2})
        found[name] = save_random_adapter(doge_of_base(folder / "base"), folder / name, folder / "base", config, seed)
    paths = {name: folder / name for name in ("legal", "support")}
    return World(exported(folder / "base", paths, folder / "out"), folder, found)


def doge_of_base(folder: Path) -> Any:
    if not folder.exists():
        llama_base(folder)
    return doge_of(folder).model


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTED = {
    "all": TARGETS,
    "the mask too": [*TARGETS, "dt_proj"],
    "values alone": ["v_proj"],
    "the mask alone": ["dt_proj"],
    "queries and down": ["q_proj", "down_proj"],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("targets", ADAPTED)
def test_folded_and_fused_matrices_take_their_part_of_the_update(form: str, targets: str, tmp_path: Path) -> None:
    save_doge(tmp_path / "base", **FORMS[form])
    if "biases" in form and "mask" in targets:
        pytest.skip("refused by name, see below")
    pattern = {"v_proj": 20} if "v_proj" in ADAPTED[targets] else {}
    config = lora_config(target_modules=ADAPTED[targets], use_rslora=True, alpha_pattern=pattern)
    wrapped = save_random_adapter(doge_of(tmp_path / "base").model, tmp_path / "legal", tmp_path / "base", config)
    model = exported(tmp_path / "base", {"legal": tmp_path / "legal"}, tmp_path / "out")  # compares full windows too
    assert relative_difference(logits(wrapped), model.logits(IDS, adapter="legal")) < 1e-4
    assert relative_difference(logits(doge_of(tmp_path / "base").model), model.logits(IDS)) < 1e-4
    # a mask with bonuses says little before the window is full, and the adapter as little
    least = 1e-5 if (form, targets) == ("bonuses", "the mask alone") else 1e-3
    assert relative_difference(model.logits(IDS), model.logits(IDS, adapter="legal")) > least


@pytest.mark.parametrize("weights", ["int8", "fp16"])
def test_a_base_of_fewer_bits_is_verified_with_every_adapter(weights: str, world: World, tmp_path: Path) -> None:
    adapters = {name: world.folder / name for name in ("legal", "support")}
    model = exported(world.folder / "base", adapters, tmp_path / "out", weights)
    for name in adapters:
        assert relative_difference(logits(world.torch[name]), model.logits(IDS, adapter=name)) < 0.05


def test_a_state_in_8_bits_has_room_for_the_keys_of_every_adapter(world: World, tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights": "fp32", "kv_int8": True, "report_tokens": 0, "threads": 1}
    adapters = {"legal": str(world.folder / "legal")}
    export(ExportOptions(str(world.folder / "base"), tmp_path / "out", adapters=adapters, **options))
    model = doge_export.load(tmp_path / "out", threads=1)
    assert relative_difference(logits(world.torch["legal"]), model.logits(IDS, adapter="legal")) < 0.05


def test_arrays_of_an_adapter_begin_where_cache_lines_do(world: World) -> None:
    file = ort.AdapterFormat.read_adapter(str(world.folder / "out/adapters/legal.onnx_adapter")).get_parameters()
    arrays = {name: value.numpy() for name, value in file.items()}
    moved = aligned(arrays)
    assert {value.data_ptr() % 64 for value in moved.values()} == {0}
    assert all(np.array_equal(value.numpy(), arrays[name]) for name, value in moved.items())


def test_swapped_adapters_answer_as_each_alone(world: World) -> None:
    model, names = world.model, ["legal", None, "support", "legal"]
    assert model.adapters == ["legal", "support"]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
    alone = {name: model.generate("Who pays?", adapter=name, **options).token_ids for name in set(names)}
    assert len(set(map(tuple, alone.values()))) == 3
    for name, written in alone.items():
        ids = model.tokenizer.encode("Who pays?")
        expected = torch_logits(world.torch[name], np.array(ids + written[:-1]))[len(ids) - 1 :].argmax(-1)
        assert written == expected.tolist()
    together = model.generate(["Who pays?"] * 4, adapter=names, **options)
    assert [result.token_ids for result in together] == [alone[name] for name in names]
    pieces = [""] * 4
    for index, piece in model.stream(["Who pays?"] * 4, adapter=names, **options):
        pieces[index] += piece
    assert pieces == [result.text for result in together]


def test_a_row_of_a_batch_computes_as_alone_bit_by_bit(world: World) -> None:
    model = world.model.with_adapter("legal")
    batch, ids = model.decoder.new_batch(3), random_ids(6)
    states = [model.decoder.new_state() for _ in range(3)]
    for count, state in enumerate(states, start=1):
        model.decoder.forward(state, ids[:count])
        batch.open(state)
    rows = batch.forward([7, 8, 9]).copy()
    rows = batch.forward([7, 8, 9])
    for token, state, row in zip((7, 8, 9), states, rows, strict=True):
        model.decoder.forward(state, np.array([token]))
        assert np.array_equal(model.decoder.forward(state, np.array([token]))[-1], row)


def test_prompt_lookup_changes_no_token_of_an_adapter(world: World) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True, "adapter": "legal"}
    plain = world.model.generate("ab ab ab ab", **options)
    guessed = world.model.generate("ab ab ab ab", prompt_lookup_num_tokens=7, **options)
    assert guessed.token_ids == plain.token_ids


def test_chats_and_scores_take_an_adapter(world: World) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    texts = {name: world.model.chat(messages, adapter=name, max_new_tokens=6, seed=1).token_ids for name in world.torch}
    assert len(set(map(tuple, texts.values()))) == 3
    (scored,) = world.model.score("ab", [" ab"], adapter="legal")
    ids = world.model.tokenizer.encode("ab ab")
    rows = torch_logits(world.torch["legal"], np.array(ids)).astype(np.float64)
    start = len(world.model.tokenizer.encode("ab"))
    expected = sum(row[i] - np.log(np.exp(row).sum()) for row, i in zip(rows[start - 1 :], ids[start:], strict=False))
    assert scored.logprob == pytest.approx(expected, rel=1e-4)


def test_a_state_goes_on_with_its_adapter_and_refuses_another(world: World, tmp_path: Path) -> None:
    model, options = world.model, dict[str, Any](max_new_tokens=5, temperature=0, ignore_eos=True)
    whole = model.generate("Who pays the rent?", adapter="legal", **options).token_ids
    state = model.prefill("Who pays", adapter="legal")
    state.save(tmp_path / "state")
    assert model.generate(model.tokenizer.encode_inside(" the rent?"), state=state, **options).token_ids == whole
    with pytest.raises(StateError, match="was made with the adapter 'legal', and goes on in no other way"):
        model.generate("?", state=state, adapter="support")
    with pytest.raises(StateError, match="was made without an adapter"):
        model.generate("?", state=model.prefill("Who"), adapter="support")
    with pytest.raises(StateError, match="was made with the adapter 'legal', and goes on in no other way"):
        model.with_adapter("support").generate("?", state=state)
    loaded = model.load_state(tmp_path / "state", adapter="legal")
    assert model.generate(model.tokenizer.encode_inside(" the rent?"), state=loaded, **options).token_ids == whole
    for name, words in ((None, "without an adapter"), ("support", "with the adapter 'support'")):
        with pytest.raises(StateError, match=f"made with the adapter 'legal', but is to be read {words}"):
            model.load_state(tmp_path / "state", adapter=name)


def test_an_adapter_is_added_while_the_model_runs(world: World) -> None:
    model = doge_export.load(world.folder / "out", threads=1)
    model.add_adapter("third", world.folder / "out/adapters/legal.onnx_adapter")
    assert model.adapters == ["legal", "support", "third"]
    assert np.array_equal(model.logits(IDS, adapter="third"), model.logits(IDS, adapter="legal"))
    with pytest.raises(OptionError, match="there is an adapter 'third' already"):
        model.add_adapter("third", world.folder / "out/adapters/legal.onnx_adapter")
    with pytest.raises(OptionError, match="the adapter's name is 'a/b'; it must be letters"):
        model.add_adapter("a/b", world.folder / "out/adapters/legal.onnx_adapter")


def test_known_beginnings_of_prompts_are_kept_apart(world: World) -> None:
    model = doge_export.load(world.folder / "out", threads=1, max_streams=2, cache_mb=10)
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    for name in (None, "legal", "support", None, "legal"):
        merged = model.generate("Who pays the rent?", adapter=name, **options)
        assert merged.token_ids == world.model.generate("Who pays the rent?", adapter=name, **options).token_ids


def test_another_adapter_opens_no_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = doge_export.load(world.folder / "out", threads=1)
    model.logits(IDS, adapter="legal")
    monkeypatch.setattr("doge_export.runtime.standard_graphs.open_session", None)
    assert len(model.logits(IDS, adapter="support")) == len(IDS)


def test_the_portable_graph_takes_the_file_by_onnxruntimes_own_adapter(world: World) -> None:
    folder = world.folder / "out"
    session = ort.InferenceSession(folder / ADAPTED_FILES[PORTABLE_FILE], providers=["CPUExecutionProvider"])
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(str(folder / "adapters/legal.onnx_adapter"))
    options.add_active_adapter(adapter)
    inputs = portable_inputs(session, world.model)
    assert relative_difference(logits(world.torch[None]), session.run(["logits"], inputs)[0][0]) < 1e-4
    assert relative_difference(logits(world.torch["legal"]), session.run(["logits"], inputs, options)[0][0]) < 1e-4


def portable_inputs(session: ort.InferenceSession, model: Model) -> dict[str, Any]:
    arrays = {"input_ids": IDS[None], "attention_mask": np.ones((1, len(IDS)), np.int64)}
    arrays["position_ids"] = np.arange(len(IDS))[None]
    for each in session.get_inputs():
        if each.name.startswith("past"):
            d = model.with_adapter("legal").decoder.new_state().description
            arrays[each.name] = np.zeros((1, d.num_kv_heads, 0, d.channels), np.float32)
    return arrays


def test_names_that_do_not_exist_are_refused_with_those_that_do(world: World) -> None:
    with pytest.raises(OptionError, match="adapter is 'legel'; it must be one of the model's: legal, support"):
        world.model.generate("Hi", adapter="legel")
    with pytest.raises(OptionError, match="adapter has 1 names; it must have one for each of 2 prompts"):
        world.model.generate(["Hi", "Ho"], adapter=["legal"])
    with pytest.raises(OptionError, match="it must be one name, as there is one prompt"):
        world.model.generate("Hi", adapter=["legal"])  # type: ignore[call-overload]  # the fault


def test_a_folder_with_the_name_of_an_adapter_is_not_served_beside_it(world: World, tmp_path: Path) -> None:
    (tmp_path / "out:legal").symlink_to(world.folder / "out")
    for folders in ([tmp_path / "out:legal", world.folder / "out"], [world.folder / "out", tmp_path / "out:legal"]):
        with pytest.raises(
            OptionError, match="the folder 'out:legal' has the name of the adapter 'legal' of 'out', by"
        ):
            served_app(folders, Limits(max_streams=2), threads=1)


def test_none_in_a_list_is_the_base_of_a_model_with_an_adapter_too(world: World) -> None:
    legal = world.model.with_adapter("legal")
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    found = legal.generate(["Hello", "Hello", "Hello"], adapter=[None, "legal", "support"], **options)
    expected = [world.model.generate("Hello", adapter=name, **options) for name in (None, "legal", "support")]
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert legal.generate(["Hello"], **options)[0].token_ids == expected[1].token_ids
    assert expected[0].token_ids != expected[1].token_ids


@pytest.mark.parametrize("fault", [{"a": 1}, 3, {"legal"}])
def test_an_adapter_that_is_no_text_is_refused(fault: Any, world: World) -> None:
    for call in (
        lambda: world.model.generate("Hi", adapter=fault),
        lambda: world.model.generate(["Hi"], adapter=[fault]),
        lambda: world.model.with_adapter(fault),
        lambda: world.model.add_adapter(fault, world.folder / "out/adapters/legal.onnx_adapter"),
        lambda: world.model.add_adapter("own", fault),
    ):
        with pytest.raises(OptionError, match="it must be"):
            call()


def test_a_folder_without_adapters_takes_none(tmp_path: Path, world: World) -> None:
    export(ExportOptions(str(world.folder / "base"), tmp_path / "plain", weights="fp32", report_tokens=0))
    assert not list((tmp_path / "plain/onnx").glob("*_adapters.onnx"))
    model = doge_export.load(tmp_path / "plain")
    with pytest.raises(PackageError, match="has no graphs for adapters; export it with --adapters NAME=DIR"):
        model.add_adapter("legal", world.folder / "out/adapters/legal.onnx_adapter")
    with pytest.raises(OptionError, match="it must be one of the model's: none"):
        model.generate("Hi", adapter="legal")


DAMAGE: dict[str, tuple[Any, str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:200]), "is no adapter of onnxruntime, or a damaged one"),
    "other": (lambda path: path.write_bytes(b"PK" * 500), "is no adapter of onnxruntime, or a damaged one"),
    "missing": (lambda path: path.unlink(), "is missing; give an adapter file that doge-export wrote"),
    "other base": (lambda path: rewritten(path, lambda values: values, 1), "is an adapter of another base"),
    "shape": (lambda path: rewritten(path, wider), "of shape [1, 33, 4], for which the base has [1, 32,"),
    "name": (lambda path: rewritten(path, renamed), "for which the base has no place"),
    "number": (lambda path: rewritten(path, not_a_number), "which must hold finite numbers of float32"),
    "pair": (lambda path: rewritten(path, halved), "which do not fit; export it again"),
}
A_NAME = "layers.0.self_attn.o_proj.lora_A"


def rewritten(path: Path, change: Any, base: int | None = None) -> None:
    file = ort.AdapterFormat.read_adapter(str(path))
    arrays = {name: value.numpy().copy() for name, value in file.get_parameters().items()}
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in change(arrays).items()}
    file.set_model_version(file.get_model_version() if base is None else base)
    file.set_parameters(values)
    file.export_adapter(str(path))


def wider(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays | {A_NAME: np.zeros((1, 33, 4), np.float32)}


def renamed(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("layers.0", "layers.7"): array for name, array in arrays.items()}


def not_a_number(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays | {A_NAME: np.full_like(arrays[A_NAME], np.nan)}


def halved(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if name != A_NAME}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(damage: str, world: World, tmp_path: Path) -> None:
    change, words = DAMAGE[damage]
    path = tmp_path / "x.onnx_adapter"
    path.write_bytes((world.folder / "out/adapters/legal.onnx_adapter").read_bytes())
    change(path)
    with pytest.raises(PackageError) as refusal:
        doge_export.load(world.folder / "out", threads=1).add_adapter("x", path)
    assert words in str(refusal.value)


MERGED_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "has use_dora True, so merge it"),
    "biases": ({"bias": "all"}, "has bias 'all', so merge it"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "has modules_to_save, so merge it"),
    "tokens": ({"trainable_token_indices": {"embed_tokens": [3]}}, "has trainable_token_indices, so merge it"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "has init_lora_weights 'pissa', so merge it"),
    "head": ({"target_modules": ["q_proj", "lm_head"]}, "so merge it: doge-export BASE --adapter DIR"),
}


@pytest.mark.parametrize("kind", MERGED_ONLY)
def test_an_adapter_that_is_more_than_thin_matrices_is_refused_by_name(kind: str, world: World, tmp_path: Path) -> None:
    fields, words = MERGED_ONLY[kind]
    save_random_adapter(
        doge_of_base(world.folder / "base"), tmp_path / "x", world.folder / "base", lora_config(**fields)
    )
    with pytest.raises(CheckpointError) as refusal:
        exported(world.folder / "base", {"x": tmp_path / "x"}, tmp_path / "out")
    assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_an_adapted_mask_with_biases_is_refused_by_name(tmp_path: Path) -> None:
    save_doge(tmp_path / "base", **FORMS["biases"])
    config = lora_config(target_modules=["dt_proj"])
    save_random_adapter(doge_of(tmp_path / "base").model, tmp_path / "x", tmp_path / "base", config)
    with pytest.raises(CheckpointError, match="adapts dt_proj of a model with biases, so merge it"):
        exported(tmp_path / "base", {"x": tmp_path / "x"}, tmp_path / "out")


def test_a_chat_in_the_terminal_takes_an_adapter(world: World) -> None:
    words = [str(world.folder / "out"), "--prompt", "Hi", "--greedy", "--max-new-tokens", "6"]
    answers = [CliRunner().invoke(chat, [*words, *more]) for more in ([], ["--adapter", "legal"], ["--adapter", "no"])]
    assert [answer.exit_code for answer in answers] == [0, 0, 2]
    assert answers[0].stdout != answers[1].stdout
    assert "adapter is 'no'; it must be one of the model's: legal, support" in answers[2].output


def test_rows_of_a_file_are_answered_with_an_adapter(world: World, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Who pays?"}\n')
    words = [str(world.folder / "out"), str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(generate, [*words, "--adapter", "legal", "--greedy", "--max-new-tokens", "6"])
    assert done.exit_code == 0, done.output
    expected = world.model.generate("Who pays?", adapter="legal", max_new_tokens=6, temperature=0)
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == expected.text


def test_a_server_has_a_model_for_each_adapter(world: World) -> None:
    app = served_app([world.folder / "out"], Limits(), threads=1)
    assert app.state.models == ["out", "out:legal", "out:support"]
    body = {"prompt": "Who pays?", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    with TestClient(app) as client:
        answers = [client.post("/v1/completions", json={"model": name, **body}).json() for name in app.state.models]
        assert client.get("/v1/models/out:legal").json()["id"] == "out:legal"
    expected = [
        world.model.generate("Who pays?", adapter=name, max_new_tokens=6, temperature=0, ignore_eos=True)
        for name in world.torch
    ]
    assert [answer["choices"][0]["text"] for answer in answers] == [result.text for result in expected]
