"""The two ways to compute a decoder, for test files that hold for both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doge_export.runtime.operators import LIBRARY, SWITCH

WAYS = [pytest.param("0", marks=pytest.mark.slow, id="standard graphs"), pytest.param("1", id="DogeStep")]


@pytest.fixture(scope="module", params=WAYS)
def each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of the module runs with onnxruntime's operators, then with our own."""
    if request.param == "1" and not LIBRARY.is_file():
        pytest.skip("no compiler made the operators' library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, request.param)
        yield
