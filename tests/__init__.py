"""Tests of doge-export; none of them may ask the real hub, and that is read when its library is imported."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
