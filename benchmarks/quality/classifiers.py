"""How well does a trained classifier or reward model do, beside a model that learns nothing and a bag of words?

    python -m benchmarks.quality.classifiers train/recipes/doge-tiny/classify.yaml runs/doge-tiny/classify
    python -m benchmarks.quality.classifiers RECIPE RUN --export FOLDER --data-folder DATA

The recipe and its seed give the records that were held out. The bag of words is scikit-learn's: TF-IDF of words and
pairs of words, then a linear support vector machine. It learns from the records that the run learned from. Of
preferences it learns from the difference of the two answers. Errors are standard errors of a share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

import doge_export
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from doge_model import load_classifier
from train.classifiers import standard_error, without_texts_of
from train.command import read_recipe
from train.data import DataArguments, Source, load_mixture

BATCH = 32
Truths = NDArray[np.bool_]


@click.command()
@click.argument("recipe", type=click.Path(exists=True, path_type=Path))
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--export", "folder", type=click.Path(exists=True, path_type=Path), help="The run's exported folder.")
@click.option("--data-folder", default="data", show_default=True, help="Of the recipe's files.")
@click.option("--seed", type=int, help="Of the run, where it was another than the recipe's.")
@options.json_file
def main(recipe: Path, run: Path, folder: Path | None, data_folder: str, seed: int | None, out: Path | None) -> None:
    """Measure all of them on the held-out records."""
    announce()
    fields = read_recipe(str(recipe))
    seed = fields["seed"] if seed is None else seed
    is_reward = "label_column" not in fields
    columns = None if is_reward else {"text": fields["text_column"], "label": fields["label_column"]}
    sources = [Source(**{"columns": columns, **source}) for source in fields["datasets"]]
    data = DataArguments(sources, eval_share=fields["eval_share"], data_folder=data_folder)
    records, held_out = load_mixture(data, "preference" if is_reward else "labelled", seed)
    measure = rewards if is_reward else labels
    rows = measure(records, held_out, run, folder, fields["max_length"])
    for row in rows:
        click.echo("  ".join(f"{value:.4f}" if isinstance(value, float) else f"{value:<28}" for value in row.values()))
    finish({"recipe": str(recipe), "seed": seed, "rows": rows}, out)


def labels(records: Any, held_out: Any, run: Path, folder: Path | None, max_length: int) -> list[dict[str, Any]]:
    """A row for each way to label the held-out texts, whose text was not trained on."""
    held_out = without_texts_of(held_out, records)
    texts, truth = held_out["text"][:], np.array([names[0] for names in held_out["labels"]])
    trained, known = records["text"][:], np.array([names[0] for names in records["labels"]])
    click.echo(f"{len(trained)} texts to train on, {len(texts)} held out, {len(set(known))} labels")
    names, counts = np.unique(known, return_counts=True)
    said = {"most frequent label": np.full(len(truth), names[counts.argmax()])}
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LinearSVC().fit(words.fit_transform(trained), known)
    said["bag of words"] = model.predict(words.transform(texts))
    said["PyTorch"] = torch_labels(run, texts, max_length)
    if folder is not None:
        rows = cut_rows(run, texts, max_length)
        said[f"exported {folder.name}"] = np.array([found.label for found in doge_export.load(folder).classify(rows)])
    return [{"way": name, **figures(truth == found), "f1": macro_f1(truth, found)} for name, found in said.items()]


def figures(right: Truths) -> dict[str, float]:
    """Accuracy and its standard error."""
    share = float(right.mean())
    return {"accuracy": share, "error": standard_error(share, len(right))}


def macro_f1(truth: NDArray[np.str_], found: NDArray[np.str_]) -> float:
    """The mean of the labels' F1."""
    return float(f1_score(truth, found, average="macro", zero_division=0.0))


def cut_rows(run: Path, texts: list[str], max_length: int) -> list[list[int]]:
    """Texts as token ids, cut as in the training."""
    tokenizer = load_classifier(run).tokenizer
    assert tokenizer is not None
    rows: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    return rows


def torch_logits(run: Path, rows: list[list[int]]) -> NDArray[np.float32]:
    """PyTorch's logits, in batches of like lengths: float32 [rows, labels]."""
    model = load_classifier(run).model
    out = np.empty((len(rows), model.num_labels), np.float32)
    order = np.argsort([len(row) for row in rows], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            places = order[start : start + BATCH]
            width = max(len(rows[place]) for place in places)
            ids = torch.full((len(places), width), model.config.pad_token_id)
            mask = torch.zeros(len(places), width, dtype=torch.long)
            for index, place in enumerate(places):
                length = len(rows[place])
                ids[index, :length], mask[index, :length] = torch.tensor(rows[place]), 1
            out[places] = model(ids, attention_mask=mask).logits.numpy()
    return out


def torch_labels(run: Path, texts: list[str], max_length: int) -> NDArray[np.str_]:
    """The labels that PyTorch gives."""
    id2label = load_classifier(run).model.config.id2label
    found = torch_logits(run, cut_rows(run, texts, max_length)).argmax(axis=1)
    return np.array([id2label[int(index)] for index in found])


def rewards(records: Any, held_out: Any, run: Path, folder: Path | None, max_length: int) -> list[dict[str, Any]]:
    """A row for each way to tell chosen answers from rejected ones, in pairs of at most max_length tokens."""
    tokenizer = load_classifier(run).tokenizer
    assert tokenizer is not None

    def ids(record: dict[str, Any], name: str) -> list[int]:
        encoded = tokenizer.apply_chat_template(record["prompt"] + record[name], tokenize=True, return_dict=True)
        found: list[int] = encoded["input_ids"]
        return found

    kept = [[ids(record, name) for name in ("chosen", "rejected")] for record in held_out]
    fitting = [index for index, pair in enumerate(kept) if max(map(len, pair)) <= max_length]
    trained = [record for record in records if max(len(ids(record, n)) for n in ("chosen", "rejected")) <= max_length]
    click.echo(f"{len(trained)} pairs to train on, {len(fitting)} held out")
    right = {"nothing learned": np.arange(len(fitting)) % 2 == 0}
    right["longer answer"] = np.array([len(kept[i][0]) > len(kept[i][1]) for i in fitting])
    right["bag of words"] = preferred_by_words(trained, [held_out[index] for index in fitting])
    rows = [row for index in fitting for row in kept[index]]
    numbers = torch_logits(run, rows)[:, 0].reshape(-1, 2)
    right["PyTorch"] = numbers[:, 0] > numbers[:, 1]
    if folder is not None:
        found = np.array([each.score for each in doge_export.load(folder).classify(rows)]).reshape(-1, 2)
        right[f"exported {folder.name}"] = found[:, 0] > found[:, 1]
    return [{"way": name, **figures(each)} for name, each in right.items()]


def preferred_by_words(trained: list[Any], held_out: list[Any]) -> Truths:
    """Whether a bag of words finds the chosen answer the better one."""

    def text(record: dict[str, Any], name: str) -> str:
        return "\n".join(message["content"] for message in record[name])

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    words.fit([text(record, name) for record in trained for name in ("chosen", "rejected")])

    def differences(records: list[Any]) -> Any:
        chosen, rejected = (words.transform([text(each, name) for each in records]) for name in ("chosen", "rejected"))
        return chosen - rejected

    found = differences(trained)
    signs = np.where(np.arange(found.shape[0]) % 2 == 0, 1, -1)
    turned = found.multiply(signs[:, None]).tocsr()  # half of the pairs the other way round, for two classes
    model = LinearSVC(fit_intercept=False).fit(turned, signs)
    scores: Truths = model.decision_function(differences(held_out)) > 0
    return scores


if __name__ == "__main__":
    main()
