"""The first line about an emulated processor: python -m tests.arm.versions PROCESSOR"""

from __future__ import annotations

import sys

from doge_export.measure.machine import versions
from doge_export.runtime.operators import LIBRARY, kernels_of

if __name__ == "__main__":
    print(f"{sys.argv[1]}: {versions()}, kernels {kernels_of(LIBRARY)}", flush=True)
