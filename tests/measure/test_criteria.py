"""Published criteria of eviction: recency by them is the model's own, and each keeps the keys that it says."""

from __future__ import annotations

import pytest
import torch

from doge_export.measure import criteria
from doge_export.measure.criteria import CriterionCache, CriterionLayer, read
from doge_export.measure.windows import Window, window_set
from tests.helpers.models import random_ids, relative_difference, tiny_model, torch_logits, without_mask

WINDOW = Window(8, 2)


def test_recency_one_by_one_is_the_window_of_a_lifted_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "CHUNK", 1)
    model, ids = without_mask(tiny_model(qk_norm=False, head_dim=16)), random_ids(60)
    with window_set(model, Window(9, 0)):  # here a query attends before a key leaves, so it sees one more
        expected = torch_logits(model, ids)
    with window_set(model, Window(8, 0)):
        cache = CriterionCache(model.config, "recency", Window(8, 0))
        rows = [logits[0] for _, logits in read(model, torch.from_numpy(ids)[None], cache)]
    assert relative_difference(expected, torch.cat(rows).numpy()) < 1e-5


@pytest.mark.parametrize("criterion", criteria.CRITERIA)
def test_the_window_holds_its_size_and_the_sinks(criterion: str) -> None:
    model, ids = without_mask(tiny_model(qk_norm=False, head_dim=16)), random_ids(100)
    with window_set(model, WINDOW):
        cache = CriterionCache(model.config, criterion, WINDOW)
        logits = torch.cat([rows for _, rows in read(model, torch.from_numpy(ids)[None], cache)], dim=1)
        assert logits.shape == (1, 100, 97)
        whole = torch_logits(model, ids[:2])
    assert {layer.keys.shape[2] for layer in cache.layers} == {8}
    assert relative_difference(whole, logits[0, :2].numpy()) < 1e-5


def layer_of(criterion: str, directions: torch.Tensor) -> CriterionLayer:
    """A layer of one head with these keys, its values their numbers."""
    layer = CriterionLayer(criterion, Window(3, 1), 2)
    count = len(directions)
    keys = torch.cat((directions, torch.zeros(count, 2)), dim=1)[None, None]
    layer.update(keys, torch.arange(count).float()[None, None, :, None])
    return layer


@pytest.mark.parametrize(
    ("criterion", "kept"),
    [("recency", [0, 3, 4]), ("accumulated attention", [0, 1, 4]), ("last attention", [0, 2, 3])],
)
def test_attention_decides_as_each_criterion_says(criterion: str, kept: list[int]) -> None:
    layer = layer_of(criterion, torch.eye(2)[[0, 1, 0, 1, 0]])
    weights = torch.tensor([[0.1, 0.7, 0.1, 0.1, 0.0], [0.1, 0.1, 0.4, 0.3, 0.1]])
    layer.evict(weights[None, None])
    assert layer.values[0, 0, :, 0].tolist() == kept


def test_the_key_nearest_to_the_mean_of_all_leaves() -> None:
    layer = layer_of("key similarity", torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [1, 0.2], [1, -3]]))
    layer.evict(torch.full((1, 1, 1, 5), 0.2))
    assert layer.values[0, 0, :, 0].tolist() == [0, 2, 4]
