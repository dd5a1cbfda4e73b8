"""doge-export: the plain install runs exported models; extras add exporting, training, evaluation and development."""

import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "operators"))

from compile_library import SUFFIX, BuildError, compile_library  # noqa: E402 - found by the line above

VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "doge_export" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

RUNTIME = [
    "onnxruntime>=1.22",
    "numpy>=1.26",
    "tokenizers>=0.21",
    "safetensors>=0.5",
    "jinja2>=3.1.6",  # older ones let templates out of the sandbox
    "click>=8.1",
    "rich>=13",
    "prompt_toolkit>=3.0.40",
]
HUB = ["huggingface_hub>=2.4"]  # the first that the tests have run with
PARQUET = ["pyarrow>=20"]
STRUCTURED = ["llguidance>=1.9"]  # the first that the tests have run with
EXPORT = [
    *HUB,
    "torch>=2.6",
    "transformers>=5.20,<6",  # the 4.57 line cannot run Doge: not causal under sdpa, experts crash
    "onnx>=1.18",
    "gguf>=0.17",
    "filelock>=3.12",  # torch and huggingface_hub bring it too
    "matplotlib>=3.9",  # the plots of export_report.html
]
TRAIN = [
    *EXPORT,
    "transformers>=5.23",  # the first with activation_checkpointing
    "trl>=1.16,<2",
    "datasets>=4.0",
    "accelerate>=1.10",
    "tensorboard>=2.18",
    "scikit-learn>=1.5",  # accuracy and F1 of classifiers
    "math-verify>=0.9",  # answers to problems, in train.grpo
]
ADAPTERS = ["peft>=0.21,<1", "accelerate>=1.10"]  # with the extra export or train
EVAL = [*EXPORT, "lm_eval[ifeval]>=0.4.13"]
BENCH = EXPORT
SERVE = [*STRUCTURED, "fastapi>=0.115", "uvicorn>=0.34", "prometheus_client>=0.21", "pydantic>=2.10"]
OPTIMUM = [  # for an environment of its own, without transformers 5: other programs' exporter and runtime
    "torch>=2.6",
    "optimum-onnx[onnxruntime]>=0.1,<0.2",
    "transformers>=4.57,<4.58",
    "accelerate>=1.10",  # optimum stores a tied vocabulary once with it, else twice
]
DIST = ["build>=1.6", "ziglang>=0.14"]  # the first build that takes an sdist; zig compiles for any glibc
CLIENTS = ["openai>=2", "httpx>=0.28"]  # whom the tests let ask the server
DEV = [
    *BENCH,
    *TRAIN,
    *ADAPTERS,
    *EVAL,
    *STRUCTURED,
    *SERVE,
    *CLIENTS,
    *PARQUET,
    *DIST,
    "pytest>=8",
    "hypothesis>=6.100",
    "jsonschema>=4.20",  # the judge of answers by a schema
    "ruff==0.17.6",
    "mypy==2.4.1",
]

# 0: nothing is compiled, and the wheel is one for every machine. 1: it must be. Unset: where it can be
OPERATORS = os.environ.get("DOGE_EXPORT_OPERATORS", "")
if OPERATORS not in ("", "0", "1"):
    sys.exit(f"`DOGE_EXPORT_OPERATORS` is {OPERATORS}; it must be 0 or 1, or not set")


class BuildOperators(build_ext):
    """Compiles operators/ into a library that is no Python module, so its name knows no version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's path in a build or a wheel."""
        return str(Path(*fullname.split(".")).with_suffix(SUFFIX))

    def build_extension(self, ext: Extension) -> None:
        """Compile; setuptools prints a CompileError as one line, and goes on if the extension is optional."""
        library = Path(self.get_ext_fullpath(ext.name))
        for earlier in (library, *([ROOT / self.get_ext_filename(ext.name)] if self.editable_mode else [])):
            earlier.unlink(missing_ok=True)
        try:
            compile_library(library)
        except BuildError as error:
            goes_on = "; doge-export will run on the standard graphs" if ext.optional else ""
            raise CompileError(f"{error}{goes_on}") from error


class Wheel(bdist_wheel):
    """One wheel for all versions of Python on a system and processor."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag in a wheel's name."""
        return "py3", "none", super().get_tag()[2]


setup(
    name="doge-export",
    version=VERSION,
    description="Doge small language models from PyTorch to a stateful ONNX decoder that talks on a CPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # optimum-cli's plugin folder; without optimum it is a namespace in which nothing else lies
    packages=[
        *find_packages(include=["doge_common*", "doge_model*", "doge_export*", "train*"]),
        "optimum.commands.register",
    ],
    package_dir={"optimum.commands.register": "doge_export/optimum/plugin"},
    package_data={
        "doge_common": ["py.typed"],
        "doge_model": ["py.typed"],
        "doge_export": ["py.typed", "texts/*", "report/*.jinja", "serve/*.jinja"],
        "train": ["py.typed", "*.jinja", "recipes/sha256.txt", "recipes/*/*.yaml"],
    },
    ext_modules=[Extension("doge_export.libdoge_operators", sources=[], optional=OPERATORS != "1")]
    if OPERATORS != "0"
    else [],
    cmdclass={"build_ext": BuildOperators, "bdist_wheel": Wheel},
    install_requires=RUNTIME,
    extras_require={
        "hub": HUB,
        "structured": STRUCTURED,
        "parquet": PARQUET,
        "export": EXPORT,
        "train": TRAIN,
        "adapters": ADAPTERS,
        "eval": EVAL,
        "bench": BENCH,
        "serve": SERVE,
        "optimum": OPTIMUM,
        "dist": DIST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "doge-export = doge_export.commands.export:main",
            "doge-chat = doge_export.commands.chat:main",
            "doge-generate = doge_export.commands.generate:main",
            "doge-eval = doge_export.commands.eval:main",
            "doge-classify = doge_export.commands.classify:main",
            "doge-bench = doge_export.commands.bench:main",
            "doge-serve = doge_export.commands.serve:main",
        ]
    },
)
