"""The TOML beside an ONNX file: how a sample becomes the input, what the output is, how to run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from sparing.storage.readers import read_toml


@dataclass(frozen=True)
class InputDescription:
    """How a sample value becomes the input: `(value * scale - mean) / std`, after decoding and resizing.

    Attributes:
        name: the graph's input; None when it has only one.
        decode: "image" for encoded images (PNG, JPEG, ...), "none" for numbers and text.
        resize: height and width that images are resized to (bilinear); None to leave them.
        upright: whether images are turned as their EXIF orientation says; None for no, with a warning where
            that matters.
        scale: what values are multiplied by; None for 1/255 on images with a floating input, 1 otherwise.
        mean: what is then subtracted: one number, or one per channel (last axis of numbers).
        std: what is then divided by, as `mean`.
        layout: "NCHW" or "NHWC", for images.
        dtype: the input's numpy type, if stated; it has to agree with the graph.
    """

    name: str | None = None
    decode: str = "none"
    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str = "NCHW"
    dtype: str | None = None
    upright: bool | None = None


@dataclass(frozen=True)
class Description:
    """Everything that the TOML beside an ONNX file says.

    Attributes:
        input: how a sample becomes the input.
        output: name of the graph's output that holds the distribution; None when it has only one.
        logits: whether that output holds logits.
        classes: the class names, in the order of the output; None when they are not stated.
        batch_size: samples per batch; None for the default.
        threads: threads of one forward; None for one per core.
        providers: execution providers, the preferred first; None for the CPU.
    """

    input: InputDescription = InputDescription()
    output: str | None = None
    logits: bool = False
    classes: tuple[str, ...] | None = None
    batch_size: int | None = None
    threads: int | None = None
    providers: tuple[str, ...] | None = None


_Pixels = Annotated[float, Meta(ge=1, multiple_of=1)]
_Numbers = float | Annotated[tuple[float, ...], Meta(min_length=1)]
_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1)]


class _Input(Struct, frozen=True):
    name: str | None = None
    decode: Literal["none", "image"] = "none"
    resize: Annotated[tuple[_Pixels, _Pixels], Meta(description="[height, width] in pixels")] | None = None
    upright: bool | None = None
    scale: float | Annotated[tuple[float], Meta(description="a list of one")] | None = None
    mean: _Numbers | None = None
    std: _Positive | Annotated[tuple[_Positive, ...], Meta(min_length=1)] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for key in ("resize", "layout", "upright"):
            if self.decode == "none" and getattr(self, key) is not None:
                raise ValueError(f'{key} is for images and needs decode = "image"')


class _Output(Struct, frozen=True):
    name: str | None = None
    logits: bool = False
    classes: tuple[str, ...] | None = None


class _Run(Struct, frozen=True):
    batch_size: _Count | None = None
    threads: _Count | None = None
    providers: tuple[str, ...] | None = None


class _File(Struct, frozen=True):
    input: _Input = _Input()
    output: _Output = _Output()
    run: _Run = _Run()


def read_description(path: Path) -> Description:
    """Read the TOML beside an ONNX file.

    Args:
        path: the TOML file; when there is none, the defaults hold.

    Returns:
        The description.

    Raises:
        InputError: not TOML, an unknown section or key, or a value of another type, out of range, NaN or
            infinite.
    """
    if not path.exists():
        return Description()
    read = read_toml(path, _File)
    given = read.input
    scale = _numbers(given.scale)
    return Description(
        input=InputDescription(
            name=given.name,
            decode=given.decode,
            upright=given.upright,
            resize=None if given.resize is None else (int(given.resize[0]), int(given.resize[1])),
            scale=None if scale is None else scale[0],
            mean=_numbers(given.mean),
            std=_numbers(given.std),
            layout=given.layout or "NCHW",
            dtype=given.dtype,
        ),
        output=read.output.name,
        logits=read.output.logits,
        classes=read.output.classes,
        batch_size=read.run.batch_size,
        threads=read.run.threads,
        providers=read.run.providers,
    )


def _numbers(given: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
    return given if given is None or isinstance(given, tuple) else (given,)
