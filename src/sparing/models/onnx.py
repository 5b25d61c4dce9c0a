"""ONNX files as models, run by ONNX Runtime and described by a TOML file beside them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.images import decode_batch
from sparing.models import preprocess
from sparing.models.description import Description, InputDescription, read_description
from sparing.models.model import Function, Model
from sparing.models.weights import weight_files

_TYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
_BATCH = 64
_CPU = "CPUExecutionProvider"


def load_onnx(
    path: str | Path,
    *,
    name: str,
    cost: float | None = None,
    unit: str = "seconds",
    batch_size: int | None = None,
    threads: int | None = None,
    providers: list[str] | None = None,
) -> Model:
    """Make a model of an ONNX file; `model.toml` beside `model.onnx` says how to feed it.

    Without that file the input is the sample column as it is (numbers or text), and the output holds
    probabilities. The arguments here win over the file.

    Args:
        path: the ONNX file.
        name: what the model is called.
        cost: stated cost per sample, in `unit`; None to measure seconds.
        unit: what `cost` counts.
        batch_size: samples per batch; a graph with a fixed batch keeps its own, and the last batch is padded.
        threads: threads of one forward; None for one per core.
        providers: execution providers of ONNX Runtime, the preferred first; None for the CPU.

    Returns:
        The model. Its digest is the SHA-256 of the ONNX file's bytes followed by those of the TOML file and
        of every file of weights that the graph names, where there are any.

    Raises:
        InputError: no such file, not an ONNX file, a wrong description, or a provider that is not there.
    """
    path = Path(path)
    graph = load_function(path, batch_size=batch_size, threads=threads, providers=providers)
    return Model(
        name=name,
        digest=f"sha256:{_digest(path, path.with_suffix('.toml'))}",
        function=graph.function,
        cost=cost,
        unit=unit,
        batch_size=graph.batch_size,
        logits=graph.description.logits,
        classes=graph.description.classes,
        takes_pixels=graph.takes_pixels,
    )


@dataclass(frozen=True)
class OnnxFunction:
    """An ONNX graph as a function of samples, whose outputs are whatever the graph returns.

    Attributes:
        function: from m ids (for messages) and m sample values to an array of m rows.
        batch_size: how many samples to pass at a time; at most that many where the graph fixes it.
        description: what the TOML file beside it says.
    """

    function: Function
    batch_size: int
    description: Description

    @property
    def takes_pixels(self) -> bool:
        """Whether values are images, encoded or decoded (uint8 of shape (height, width, 3)).

        Not where images are to be turned as their files say, which decoded ones do not.
        """
        return self.description.input.decode == "image" and not self.description.input.upright


def load_function(
    path: str | Path,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    providers: list[str] | None = None,
) -> OnnxFunction:
    """Load an ONNX file that is not a classifier, such as one that returns scores; see `load_onnx`.

    Raises:
        InputError: as `load_onnx`.
    """
    import onnxruntime as ort

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    toml = path.with_suffix(".toml")
    weight_files(path)  # refuses those outside the folder, which old releases of ONNX Runtime would load
    description = read_description(toml)
    chosen = list(providers or description.providers or [_CPU])
    unknown = [p for p in chosen if p not in ort.get_available_providers()]
    if unknown:
        raise InputError(
            f"{path}: no execution provider {unknown[0]!r} in this build of ONNX Runtime; "
            f"there are {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or description.threads or 0
    options.log_severity_level = 3
    # Threads that spin while they wait gain nothing here on idle cores (the CIFAR ResNets), and cost a third
    # of the speed when something else wants a core: decoding, or another process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise InputError(f"{path}: ONNX Runtime cannot load it: {error}") from error
    if session.get_providers()[0] != chosen[0]:
        raise InputError(
            f"{path}: the execution provider {chosen[0]!r} did not start; ONNX Runtime would fall back to "
            f"{session.get_providers()[0]}"
        )
    graph_input = _pick(session.get_inputs(), description.input.name, path, "input")
    if len(session.get_inputs()) > 1:
        names = ", ".join(repr(node.name) for node in session.get_inputs())
        raise InputError(f"{path}: the graph takes several inputs ({names}); use a Python callable for it")
    output = _pick(session.get_outputs(), description.output, path, "output").name
    prepare = _Prepare(graph_input, description, toml)
    fixed = graph_input.shape[0] if graph_input.shape and isinstance(graph_input.shape[0], int) else None

    def forward(ids: list[object], values: list[Any]) -> Any:
        batch = prepare(ids, values)
        m = len(ids)
        if fixed is not None and m < fixed:
            batch = np.concatenate([batch, np.repeat(batch[-1:], fixed - m, axis=0)])
        result = session.run([output], {graph_input.name: batch})[0]
        if not isinstance(result, np.ndarray):
            raise InputError(
                f"the output {output!r} is a {type(result).__name__}, not a tensor "
                "(classifiers converted from scikit-learn: export with zipmap=False)"
            )
        return result if fixed is None else result[:m]

    return OnnxFunction(forward, fixed or batch_size or description.batch_size or _BATCH, description)


class _Prepare:
    """From sample values to the graph's input; what does not fit together is refused at once."""

    def __init__(self, graph_input: Any, description: Description, toml: Path) -> None:
        self.input: InputDescription = description.input
        if graph_input.type not in _TYPES:
            raise InputError(
                f"{toml.with_suffix('.onnx')}: inputs of type {graph_input.type} are not supported"
            )
        self.dtype = np.dtype(_TYPES[graph_input.type])
        self.shape: list[Any] = list(graph_input.shape)
        self.rank = len(self.shape)
        stated = self.input.dtype
        if stated is not None and stated != ("string" if self.dtype == object else self.dtype.name):
            raise InputError(f"{toml}: [input] dtype is {stated!r}, but the graph takes {graph_input.type}")
        arithmetic = [key for key in ("scale", "mean", "std") if getattr(self.input, key) is not None]
        if arithmetic and self.dtype.kind != "f":
            raise InputError(
                f"{toml}: [input] {arithmetic[0]} needs a floating input, not {graph_input.type}"
            )
        self.channels = 3
        if self.input.decode == "image":
            if self.rank != 4 or self.dtype == object:
                raise InputError(
                    f'{toml}: decode = "image" needs an input of numbers with 4 axes, not {graph_input.type} '
                    f"with shape {graph_input.shape}"
                )
            channels = graph_input.shape[1 if self.input.layout == "NCHW" else 3]
            if isinstance(channels, int):
                self.channels = channels
            if self.channels not in (1, 3):
                raise InputError(
                    f"{toml}: the input has {channels} channels with layout {self.input.layout}; "
                    "images have 1 (grey) or 3 (RGB)"
                )
            for key in ("mean", "std"):
                per_channel = getattr(self.input, key)
                if per_channel is not None and len(per_channel) not in (1, self.channels):
                    raise InputError(f"{toml}: [input] {key} needs 1 or {self.channels} numbers")

    def __call__(self, ids: list[object], values: list[Any]) -> npt.NDArray[Any]:
        batch = self._batch(ids, values)
        wanted = self.shape[1:]
        if self.rank and (batch.ndim != self.rank or not _fits(batch.shape[1:], wanted)):
            raise InputError(
                f"the value of id {ids[0]!r} has the shape {batch.shape[1:]} once prepared, but the graph "
                f"takes ({', '.join(map(str, wanted))}) per sample"
            )
        return batch

    def _batch(self, ids: list[object], values: list[Any]) -> npt.NDArray[Any]:
        if self.input.decode == "image":
            pixels = decode_batch(
                ids,
                values,
                channels=self.channels,
                resize=self.input.resize,
                upright=self.input.upright,
            )
            return preprocess.normalise_images(pixels, self.input, self.dtype)
        if self.dtype == object:
            batch: npt.NDArray[Any] = preprocess.texts(ids, values)
        else:
            batch = preprocess.numbers(ids, values, self.input, self.dtype)
        # A column of single values feeds a graph that wants (m, 1).
        return batch[:, None] if batch.ndim == 1 and self.rank == 2 else batch


def _fits(shape: tuple[int, ...], wanted: list[Any]) -> bool:
    """Say whether sizes are those that the graph fixes; free ones have a name, or none."""
    return all(size == known for size, known in zip(shape, wanted, strict=True) if isinstance(known, int))


def _pick(nodes: list[Any], name: str | None, path: Path, role: str) -> Any:
    names = ", ".join(repr(node.name) for node in nodes)
    for node in nodes:
        if node.name == name:
            return node
    if name is not None:
        raise InputError(f"{path}: the graph has no {role} {name!r}; there are {names}")
    if len(nodes) != 1 and role == "output":
        raise InputError(
            f"{path}: the graph has several outputs ({names}); say which one holds the distribution in "
            f"{path.with_suffix('.toml').name}: [output] name"
        )
    return nodes[0]


def _digest(path: Path, toml: Path) -> str:
    digest = hashlib.sha256()
    usual = [Path(f"{path}.data"), Path(f"{path}_data")]
    for part in (path, toml, *usual, *(file for file in weight_files(path) if file not in usual)):
        if part.is_file():
            with part.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
