"""Which sources are compiled for a processor, with which flags, and the sentences where none can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from operators import compile_library
from operators.compile_library import KERNELS, BuildError, found_compiler, sources


def stems(*macros: str) -> set[str]:
    return {source.stem for source in sources(set(macros))}


def test_a_processor_has_its_own_kernels_and_the_plain_ones() -> None:
    files = {path.stem for path in compile_library.FOLDER.glob("*.cpp")}
    for processor in ("x86_64", "aarch64", "riscv"):
        others = {name for name, (needs, _) in KERNELS.items() if needs not in ("", processor)}
        assert stems(f"__{processor}__") == files - others
        assert {"operators", "kernels_plain"} <= files - others


def test_only_kernels_have_flags_of_an_instruction_set() -> None:
    for source, flags in sources({"__x86_64__"}).items():
        assert flags == KERNELS.get(source.stem, ("", ()))[1]
        assert bool(flags) == (source.stem in KERNELS and source.stem != "kernels_plain")


def test_clang_has_its_own_name_for_the_dot_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_library, "FOLDER", tmp_path)
    (source := tmp_path / "kernels_neon_dot.cpp").touch()
    assert sources({"__aarch64__"}) == {source: ("-march=armv8.2-a+dotprod",)}
    assert sources({"__aarch64__", "__clang__"}) == {source: ("-mcpu=generic+dotprod",)}


def test_kernels_without_flags_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_library, "FOLDER", tmp_path)
    (tmp_path / "kernels_new.cpp").touch()
    with pytest.raises(BuildError, match=r"^kernels_new\.cpp has no flags; give it a line in KERNELS of compile_lib"):
        sources({"__x86_64__"})


def test_a_machine_without_a_compiler_is_told_which_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"^a C\+\+ compiler is missing; install one of c\+\+, g\+\+, clang\+\+, or"):
        found_compiler()
    monkeypatch.setenv("CXX", "zig c++ -target aarch64-linux-gnu")
    assert found_compiler() == ["zig", "c++", "-target", "aarch64-linux-gnu"]


def test_a_compiler_that_fails_is_shown_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "c++ -fno-such-flag")
    with pytest.raises(BuildError, match=r"^the C\+\+ compiler has failed with exit code 1: c\+\+ -fno-such-flag"):
        compile_library.compile_library(tmp_path / "library.so")
    assert "-fno-such-flag" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
