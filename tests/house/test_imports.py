"""Imports go one way: no circle between modules, and rooms know only those below them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("doge_common", "doge_model", "doge_export", "train")


class Import(NamedTuple):
    """One import of a module of ours: by whom, of which module, and when it happens."""

    importer: str
    imported: str
    when: str  # "module", "function" or "typing"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(body: Sequence[ast.AST], when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import statement below `body`, with the time at which it runs."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, when
        inner = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else when
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from statements(node.body, "typing")
            yield from statements(node.orelse, when)
            continue
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield from statements([child], inner)


def imported_names(node: ast.Import | ast.ImportFrom, importer: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """Absolute name of each module of a statement, and of the name that is taken from it."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
        return
    base = importer.split(".")
    base = base[: len(base) - node.level + is_package] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    yield from ((module, alias.name) for alias in node.names)


def imports_of(root: Path, folder: str) -> list[Import]:
    """Every import of the Python files below a folder, of our own modules and of others'."""
    found = []
    for path in sorted((root / folder).rglob("*.py")):
        importer = module_name(path, root)
        for node, when in statements(ast.parse(path.read_text()).body, "module"):
            for module, name in imported_names(node, importer, path.name == "__init__.py"):
                inner = root / module.replace(".", "/") / name
                is_module = name and (inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file())
                found.append(Import(importer, f"{module}.{name}" if is_module else module, when))
    return found


def our_imports(root: Path = ROOT) -> list[Import]:
    found = [each for package in PACKAGES for each in imports_of(root, package)]
    return [each for each in found if each.imported.split(".")[0] in PACKAGES]


def circle(imports: list[Import]) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    below: dict[str, set[str]] = {}
    for each in imports:
        below.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


# a room may import those of the rows above its own, and its own modules
ROWS = (
    ("doge_common",),
    ("doge_model",),
    ("doge_export.errors", "doge_export.recipes", "doge_export.extras"),
    ("doge_export.places",),
    ("doge_export.names",),
    ("doge_export.runtime", "doge_export.optimum"),
    ("doge_export", "doge_export.graph", "doge_export.texts"),
    ("doge_export.options",),
    ("doge_export.quantization", "doge_export.bonuses"),
    ("doge_export.measure",),
    ("doge_export.report",),
    ("doge_export.export",),
    (
        "doge_export.evaluation",
        "doge_export.bench",
        "doge_export.talk",
        "doge_export.serve",
        "doge_export.jobs",
        "doge_export.rollouts",
    ),
    ("doge_export.batch",),
    ("doge_export.commands",),
)
ROW = {room: number for number, rooms in enumerate(ROWS) for room in rooms}


def room(module: str) -> str:
    """`doge_export.graph` of `doge_export.graph.mask`; `doge_export` is its `__init__`; other packages are one room."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "doge_export" else 1])


# packages, ours and others', that a room does without: not even in functions or for types
DOES_WITHOUT = {
    "doge_common": ("doge_model", "doge_export", "train", "torch", "transformers", "onnx", "onnxruntime", "lm_eval"),
    "doge_model": ("doge_export", "train", "onnx", "onnxruntime", "lm_eval"),
    "doge_export": ("train", "trl"),
    "doge_export/runtime": ("doge_model", "torch", "transformers", "onnx", "huggingface_hub", "lm_eval", "matplotlib"),
    "doge_export/serve": ("doge_model", "torch", "transformers", "onnx", "onnxruntime", "lm_eval"),
    "doge_export/optimum": ("onnx", "onnxruntime", "lm_eval"),
    "doge_export/graph": ("torch", "transformers", "onnxruntime", "lm_eval"),
    "train": ("doge_export", "onnx", "onnxruntime", "lm_eval"),
}
# a module that is imported where a user asks for it, and the one room of such a package that it may know
MAY_KNOW = {"train.onnx_rollouts": "doge_export.rollouts"}


@pytest.mark.parametrize("when", [("module",), ("module", "function"), ("module", "function", "typing")], ids="+".join)
def test_no_modules_import_each_other_in_a_circle(when: tuple[str, ...]) -> None:
    ring = circle([each for each in our_imports() if each.when in when])
    assert not ring, " -> ".join(ring)


def test_every_room_has_its_row() -> None:
    modules = [module_name(path, ROOT) for name in PACKAGES if name != "train" for path in (ROOT / name).rglob("*.py")]
    assert {room(module) for module in modules} == set(ROW)


def test_rooms_import_only_those_above_them_in_the_table() -> None:
    apart = [
        each for each in our_imports() if room(each.importer) in ROW and room(each.importer) != room(each.imported)
    ]
    assert apart
    against = [each for each in apart if ROW[room(each.imported)] >= ROW[room(each.importer)]]
    assert not against, against


@pytest.mark.parametrize("package", DOES_WITHOUT)
def test_a_room_does_without(package: str) -> None:
    found = imports_of(ROOT, package)
    assert found
    banned = [each for each in found if each.imported.split(".")[0] in DOES_WITHOUT[package]]
    banned = [each for each in banned if MAY_KNOW.get(each.importer) != room(each.imported)]
    assert not banned, banned


@pytest.mark.parametrize("importer", MAY_KNOW)
def test_a_module_that_knows_more_is_imported_in_functions_alone(importer: str) -> None:
    found = [each for each in our_imports() if each.imported == importer]
    assert found
    assert {each.when for each in found} == {"function"}


def test_nobody_imports_tests_and_only_tests_import_benchmarks() -> None:
    allowed = {"tests": {"tests", "benchmarks"}, "benchmarks": {"benchmarks"}}  # a benchmark's functions have tests
    for package in (*PACKAGES, "tests", "benchmarks", "examples"):
        outside = {"tests", "benchmarks"} - allowed.get(package, set())
        found = [each for each in imports_of(ROOT, package) if each.imported.split(".")[0] in outside]
        assert not found, found


SOURCES = {  # an import of b by a, written in every way
    "import b": "module",
    "from b import c": "module",
    "try:\n    import b\nexcept ImportError:\n    pass": "module",
    "class A:\n    import b": "module",
    "def f():\n    if 1:\n        from b import c": "function",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b": "typing",
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_way_to_import_is_seen(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.py").write_text(source)
    assert Import("a", "b", SOURCES[source]) in imports_of(tmp_path, ".")


def test_relative_imports_are_of_the_module_where_there_is_one(tmp_path: Path) -> None:
    for name in ("p/__init__", "p/a", "p/q/__init__", "p/q/b"):
        (tmp_path / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "p/q/b.py").write_text("from .. import a\nfrom ..a import name\nfrom . import name")
    (tmp_path / "p/q/__init__.py").write_text("from .b import name\nfrom ..a import name")
    found = [(each.importer, each.imported) for each in imports_of(tmp_path, "p")]
    assert found == [("p.q", "p.q.b"), ("p.q", "p.a"), ("p.q.b", "p.a"), ("p.q.b", "p.a"), ("p.q.b", "p.q")]


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import b")
    (tmp_path / "b.py").write_text("import c")
    (tmp_path / "c.py").write_text("import a")
    assert set(circle(imports_of(tmp_path, "."))) == {"a", "b", "c"}
