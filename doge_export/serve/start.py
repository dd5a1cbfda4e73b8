"""The application of some folders: models loaded, named, and given their share of the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastapi import FastAPI

from ..errors import OptionError, PackageError
from ..runtime.adapters import adapter_files
from ..runtime.hub import folder_of
from ..runtime.loading import load
from .app import create_app
from .engine import Engine
from .limits import Limits, Places
from .metrics import Metrics
from .page import Page
from .schemas import ReasoningFormat


def served_app(
    folders: Sequence[Path],
    limits: Limits,
    cache_mb: float = 0,
    threads: int | None = None,
    key: str | None = None,
    reasoning_format: ReasoningFormat = "none",
) -> FastAPI:
    """The application. cache_mb: of all models together. `state.models` has their names.

    A folder's adapters are models too, by the names FOLDER:ADAPTER. reasoning_format: of chats that do not say.

    Raises PackageError for a folder that cannot be served, and OptionError for two of one name. OptionError too where
    a model's traces of reasoning cannot be told, though `reasoning_format` wants that.
    """
    paths = [folder_of(folder) for folder in folders]
    named = dict(zip(names_of(folders, paths), paths, strict=True))
    metrics, engines = Metrics(), {}
    adapters = {name: adapter_files(path) for name, path in named.items()}
    check_adapter_names(adapters)
    for name, path in named.items():
        share = cache_mb / (len(named) + sum(map(len, adapters.values())))
        model = load(path, threads=threads, max_streams=limits.max_streams, cache_mb=share)
        model.require_tokenizer()
        model.new_state()  # a classifier has none, and says so
        if reasoning_format != "none":
            model.reasoning_of([])
        engines[name] = Engine(name, model, Places(limits), metrics, reasoning_format)
        for adapter in adapters[name]:
            own = adapted_name(name, adapter)
            engines[own] = Engine(own, model.with_adapter(adapter), Places(limits), metrics, reasoning_format)
    app = create_app(engines, limits, metrics, key, Page(list(engines), named))
    app.state.models = list(engines)
    return app


def adapted_name(name: str, adapter: str) -> str:
    """The name of a folder's model with an adapter."""
    return f"{name}:{adapter}"


def check_adapter_names(adapters: Mapping[str, Iterable[str]]) -> None:
    """OptionError where a folder has the name of another one's adapter. adapters: of each folder, by its name."""
    for name, own in adapters.items():
        for adapter in own:
            if adapted_name(name, adapter) in adapters:
                raise OptionError(
                    f"the folder {adapted_name(name, adapter)!r} has the name of the adapter {adapter!r} of {name!r}, "
                    "by which clients choose; rename one of them"
                )


def names_of(folders: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """A name for each model: that of its folder. OptionError where two are one, PackageError where one is no text."""
    names = [folder.name or path.resolve().name for folder, path in zip(folders, paths, strict=True)]
    for name in names:
        if not name.isprintable():
            raise PackageError(f"the folder's name is {name!r}; it must be readable text, so rename it")
        if names.count(name) > 1:
            raise OptionError(f"two folders have the name {name!r}, by which clients choose; rename one of them")
    return names
