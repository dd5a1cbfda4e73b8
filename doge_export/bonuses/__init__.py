"""Bonuses by which a narrow window keeps the keys that matter, fitted to a text for a model that has no mask."""

from .streams import WindowCalibration, calibrate_window

__all__ = ["WindowCalibration", "calibrate_window"]
