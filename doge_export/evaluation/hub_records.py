"""Records on the hub: a single request tells whether it answers, so that no task waits for retries.

huggingface_hub asks again five times, over 23 seconds, for each data set that its cache lacks (2.4.0), and has no
setting for it. datasets has one that reads the cache alone. It is set here while the hub does not answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from doge_common.errors import one_line

RECORD_ERRORS = (httpx.HTTPError, OSError, datasets.exceptions.DatasetsError)  # of reading records, by any library
FILE_READERS = ("json", "csv", "parquet", "arrow", "text")  # dataset_path of a task whose records lie in files


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether the records of a task, by its configuration, lie in files of this machine."""
    path = config.get("dataset_path")
    return isinstance(path, str) and (path in FILE_READERS or Path(path).is_dir())


@contextmanager
def cache_alone_without_hub() -> Iterator[str | None]:
    """Let datasets read its cache alone while the hub does not answer. Gives the reason, or None where it answers."""
    before = datasets.config.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set" if before else hub_failure()
    datasets.config.HF_HUB_OFFLINE = reason is not None
    try:
        yield reason
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def hub_failure() -> str | None:
    """The reason for which the hub does not answer one request; None where it answers, whatever it says."""
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx.TransportError, httpx.InvalidURL, OfflineModeIsEnabled) as error:
        return f"{constants.ENDPOINT}: {one_line(error)}"
    return None
