"""The page of an export: whole in itself, with the report's numbers, beside other exports of the same model."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doge_export.commands.export import main
from doge_export.report.plots import VARIABLES
from tests.helpers.models import FORMS, tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its export in fp32, then in 8 bits, and one of another model between them."""
    folder = tmp_path_factory.mktemp("place")
    tiny_model(**FORMS["native"]).save_pretrained(folder / "tiny")
    tiny_model(seed=1, **FORMS["native"]).save_pretrained(folder / "other")
    arguments = [("tiny", "a-fp32", "--fp32"), ("other", "another<model", "--int8"), ("tiny", "b-int8", "--int8")]
    for model, out, weights in arguments:
        result = run(folder / model, folder / out, weights, "--report-tokens", 200)
        assert result.exit_code == 0, result.output
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export_report.json").read_text())


def page_of(folder: Path) -> str:
    return (folder / "export_report.html").read_text()


def test_the_command_prints_what_the_report_says(place: Path) -> None:
    result = run(place / "tiny", place / "c", "--report-tokens", 200)
    quality, speed = report_of(place / "c")["quality"], report_of(place / "c")["speed"]
    assert (
        f"perplexity                {quality['perplexity']:.3f}, fp32 {quality['perplexity_fp32']:.3f}" in result.stdout
    )
    assert f"mean {quality['kl_mean']:.1e} nats per token, 99% within {quality['kl_p99']:.1e}" in result.stdout
    assert f"same most likely token    {quality['top1']:.1%}" in result.stdout
    assert f"{quality['greedy_length']:.1f} of 32 tokens until the answers part, mean of 8 prompts" in result.stdout
    assert f"{speed['decode_tokens_per_s']:.0f} tokens/s" in result.stdout
    assert "200 tokens of random tokens" in result.stdout
    assert "comparing it on text: 0 of 200 tokens" in result.stderr


def test_the_page_needs_nothing_beside_itself(place: Path) -> None:
    page = page_of(place / "b-int8")
    targets = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert [target for target in targets if not target.startswith("#")] == []
    assert "url(http" not in page
    assert "<script" not in page


def test_every_tag_of_the_page_is_closed(place: Path) -> None:
    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "link"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page_of(place / "b-int8"))
    assert checker.open == []


def test_the_page_has_the_numbers_and_four_plots_in_its_own_colours(place: Path) -> None:
    page, quality = page_of(place / "b-int8"), report_of(place / "b-int8")["quality"]
    for text in (f"{quality['perplexity']:.3f}", f"{quality['kl_mean']:.2g}", f"{100 * quality['top1']:.1f}%"):
        assert text in page
    assert page.count("<svg") == 4
    assert all(f"var({variable})" in page for variable in VARIABLES.values())
    assert not any(color in page for color in VARIABLES)


def test_a_narrowed_window_has_a_plot_and_its_cost(place: Path) -> None:
    options = ["--keep-window", 32, "--keep-sinks", 2, "--report-tokens", 50]
    result = run(place / "tiny", place / "narrow", *options)
    assert result.exit_code == 0, result.output
    page, found = page_of(place / "narrow"), report_of(place / "narrow")["narrowed_window"]
    assert page.count("<svg") == 5
    assert "those of the first 2 tokens for good" in page
    assert f"costs {found['cost']['nats']:+.3f} ± {found['cost']['stderr']:.3f} nats, without sinks" in page
    assert "The window was narrowed: 32 tokens, the first 2 of a stream" in (place / "narrow/README.md").read_text()


def test_matrices_that_are_stored_as_they_are_have_no_error(place: Path) -> None:
    fp32, int8 = (report_of(place / name)["quality"]["matrix_errors"] for name in ("a-fp32", "b-int8"))
    assert set(fp32.values()) == {0.0}
    assert "layers.1.mlp.down_proj" in int8
    assert all(1e-3 < error < 0.02 for error in int8.values())


def test_exports_of_the_same_model_beside_it_are_on_the_page(place: Path) -> None:
    page = page_of(place / "b-int8")
    assert "a-fp32" in page
    assert "another" not in page
    assert page.count("<td>PyTorch fp32</td>") == page.count("<td>b-int8</td>") == 1
    assert ".partial" not in page  # the folder that the export is written in
    assert "b-int8" not in page_of(place / "a-fp32")  # which was written before


def test_a_name_is_text_and_not_markup(place: Path) -> None:
    assert "another&lt;model" in page_of(place / "another<model")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"quality": null, "files": {}}', '{"quality": {}, "files": {}}'])
def test_what_is_no_report_beside_it_is_passed_over(content: str, place: Path) -> None:
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "export_report.json").write_text(content)
    result = run(place / "tiny", place / "d", "--overwrite", "--report-tokens", 50)
    assert result.exit_code == 0, result.output


def test_without_report_tokens_there_is_neither_page_nor_quality(place: Path) -> None:
    result = run(place / "tiny", place / "e", "--report-tokens", 0)
    assert result.exit_code == 0, result.output
    assert not (place / "e" / "export_report.html").exists()
    assert report_of(place / "e")["quality"] is None
    assert "KL divergence" in result.stdout


@pytest.mark.parametrize("tokens", [-1, 1, 15])
def test_too_few_report_tokens_are_refused_at_once(tokens: int, place: Path) -> None:
    result = run(place / "tiny", place / "f", "--report-tokens", tokens)
    assert (result.exit_code, f"report_tokens is {tokens}" in result.stderr) == (2, True)
