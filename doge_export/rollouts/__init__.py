"""Completions of a model that is being trained, by the runtime: exported in memory, sampled with log-probabilities."""

from .completions import Completion, Sampling, complete
from .policy import Policy

__all__ = ["Completion", "Policy", "Sampling", "complete"]
