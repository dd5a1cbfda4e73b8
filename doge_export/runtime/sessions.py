"""onnxruntime sessions on an exported folder's files; every error of onnxruntime becomes a PackageError here."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_errors

from ..errors import PackageError
from .description import CLASSIFIER_KEY, DATA_FILE, PORTABLE_FILE
from .huge_pages import huge_pages
from .processor import this_processor
from .threads import SPIN_US
from .weights import SessionOver, shared_weights

# Since 1.24 onnxruntime reads a data file in the model's own folder alone. 1.32 also allows the folder that the model
# file is a link into, and so opens the hub's cache (microsoft/onnxruntime, pull request 27374).
FOLLOWS_LINKS = tuple(int(part) for part in ort.__version__.split(".")[:2]) >= (1, 32)
ORT_ERRORS = (  # raised by opening and running; they share no base
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    TypeError,  # a graph whose inputs are of another type
    UnicodeDecodeError,  # a message with bytes of a damaged file in it
    ValueError,  # a graph without one of our inputs
)


def session_options(threads: int) -> ort.SessionOptions:
    """The way a session computes: on so many threads, which sleep soon when there is nothing to do, and in silence."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; onnxruntime would also print them
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    return options


def open_session(path: Path, threads: int, operators: Path | None = None) -> ort.InferenceSession:
    """An onnxruntime session on a model file and the data file beside it.

    operators: the library with the graph's own operators.

    Raises:
        PackageError: one of the two is missing, or onnxruntime refuses them.
    """
    check_files(path)
    options = session_options(threads)
    if operators is not None:
        with refusals(f"load {operators}"):
            options.register_custom_ops_library(str(operators))
    elif this_processor().is_arm:  # elsewhere the file is not read twice
        changed = fitting(path.read_bytes(), data_beside(path), options)
        if changed is not None:
            with huge_pages():
                return open_bytes(changed, data_beside(path), options, f"open {path}")
    folders = [path.parent, *([path.resolve().parent] if FOLLOWS_LINKS else [])]
    if leads_out_of(folders, data_beside(path)):
        return open_with_bytes(path.read_bytes(), data_beside(path), options, f"open {path}")
    if operators is not None and (session := session_over_weights(path, options)) is not None:
        return session
    with huge_pages(), utf8_folder(path.parent) as folder, refusals(f"open {path}"):
        return ort.InferenceSession(f"{folder}/{path.name}", options, providers=["CPUExecutionProvider"])


def session_over_weights(path: Path, options: ort.SessionOptions) -> ort.InferenceSession | None:
    """A session whose weights lie in huge pages; None where onnxruntime maps the data file itself.

    A damaged file is left to it, and so is one for which memory has no addresses: it names the reason.
    """
    try:
        weights = shared_weights(data_beside(path))
        if weights is None:
            return None
        held = weights.values(path.read_bytes())
    except (OSError, ValueError):
        return None
    with utf8_folder(path.parent) as folder, refusals(f"open {path}"):
        return SessionOver(f"{folder}/{path.name}", options, weights, held)


def fitting(model: bytes, data: Path, options: ort.SessionOptions) -> bytes | None:
    """The graph as this processor needs it, None where that is the graph itself; its entries go into the options."""
    from .processor_products import change_for  # noqa: PLC0415 - only ARM's processors need it

    change = change_for(this_processor(), model, data)
    for name, value in change.entries.items():
        options.add_session_config_entry(name, value)
    return change.model


def leads_out_of(folders: Sequence[Path], data: Path) -> bool:
    """Whether a data file is a link to somewhere else than one of these folders, from where onnxruntime reads none."""
    return data.resolve().parent not in [folder.resolve() for folder in folders]


def open_with_bytes(model: bytes, data: Path, options: ort.SessionOptions, purpose: str) -> ort.InferenceSession:
    """A session on a model whose data file onnxruntime would not open ("External data path escapes model directory").

    It copies the bytes, so each session has weights of its own; a file that it opens itself is mapped.
    """
    with (
        data.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as weights,
        huge_pages(),
        refusals(purpose),
    ):
        options.add_external_initializers_from_files_in_memory([data.name], [weights], [len(weights)])
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_files(path: Path) -> None:
    """PackageError where a model file or its data file is missing, or the folder is of an earlier version."""
    if path.is_file() and data_beside(path).is_file():
        return
    portable = path.with_name(Path(PORTABLE_FILE).name)
    if portable.is_file() and not any(path.parent.glob("decoder*.onnx")):
        if CLASSIFIER_KEY.encode() in portable.read_bytes():
            raise PackageError(f"{path.parent.parent} is a classifier, which writes no text; run doge-classify with it")
        raise PackageError(
            f"{path.parent.parent} was exported by an earlier version, or {portable.name} is damaged; export the "
            "checkpoint again"
        )
    missing = data_beside(path) if path.is_file() else path
    raise PackageError(f"{missing} is missing; give a folder that doge-export wrote, or export the model again")


def data_beside(path: Path) -> Path:
    """The data file of a model file."""
    return path.with_name(Path(DATA_FILE).name)


def open_changed(model: bytes, folder: Path, threads: int) -> ort.InferenceSession:
    """A session on a model that was made of a decoder file, over the data file that lies in `folder`."""
    options, data = session_options(threads), folder / Path(DATA_FILE).name
    return open_bytes(fitting(model, data, options) or model, data, options, f"open a graph made of {folder}")


def open_bytes(model: bytes, data: Path, options: ort.SessionOptions, purpose: str) -> ort.InferenceSession:
    """A session on the bytes of a model, over its data file."""
    if leads_out_of([data.parent], data):
        return open_with_bytes(model, data, options, purpose)
    with utf8_folder(data.parent) as name, refusals(purpose):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", name)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def metadata_of(session: ort.InferenceSession, path: Path) -> dict[str, str]:
    """The metadata entries of a model file that is open."""
    with refusals(f"read the metadata of {path}"):
        entries: dict[str, str] = session.get_modelmeta().custom_metadata_map
        return entries


def run(session: ort.InferenceSession, binding: ort.IOBinding) -> None:
    """Run a graph over bound arrays.

    Raises:
        PackageError: onnxruntime refuses.
    """
    try:  # not `refusals`, which would cost every step 2 microseconds
        session.run_with_iobinding(binding)
    except ORT_ERRORS as error:
        raise refusal("run the decoder", error) from error


@contextmanager
def refusals(purpose: str) -> Iterator[None]:
    """Turn onnxruntime's errors into PackageErrors; nothing but onnxruntime may be called inside."""
    try:
        yield
    except ORT_ERRORS as error:
        raise refusal(purpose, error) from error


def refusal(purpose: str, error: Exception) -> PackageError:
    """One sentence of an error of onnxruntime."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return PackageError(f"onnxruntime cannot {purpose}; it may be damaged, export the model again ({first_line})")


@contextmanager
def utf8_folder(folder: Path) -> Iterator[str]:
    """A name of the folder in UTF-8, which is all that onnxruntime takes.

    Linux allows names of any bytes; there an open folder has a second name, /proc/self/fd/N.
    """
    name = os.fsencode(folder)
    try:
        yield name.decode("utf-8")
        return
    except UnicodeDecodeError:
        pass
    number = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
