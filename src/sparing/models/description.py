"""The TOML beside an ONNX file: how a sample becomes the input, what the output is, how to run it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparing.errors import InputError


@dataclass(frozen=True)
class InputDescription:
    """How a sample value becomes the input: `(value * scale - mean) / std`, after decoding and resizing.

    Attributes:
        name: the graph's input; None when it has only one.
        decode: "image" for encoded images (PNG, JPEG, ...), "none" for numbers and text.
        resize: height and width that images are resized to (bilinear); None to leave them.
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


_KEYS = {
    "input": ("name", "decode", "resize", "scale", "mean", "std", "layout", "dtype"),
    "output": ("name", "logits", "classes"),
    "run": ("batch_size", "threads", "providers"),
}


def read_description(path: Path) -> Description:
    """Read the TOML beside an ONNX file.

    Args:
        path: the TOML file; when there is none, the defaults hold.

    Returns:
        The description.

    Raises:
        InputError: not TOML, an unknown section or key, or a value of another type or out of range.
    """
    if not path.exists():
        return Description()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    for section, table in document.items():
        if section not in _KEYS or not isinstance(table, dict):
            raise InputError(f"{path}: unknown section {section!r}; there are {_listed(_KEYS)}")
        for key in table:
            if key not in _KEYS[section]:
                raise InputError(
                    f"{path}: unknown key {key!r} in [{section}]; there are {_listed(_KEYS[section])}"
                )
    reader = _Reader(path, document)
    decode = reader.choice("input", "decode", ("none", "image"))
    resize = reader.numbers("input", "resize")
    if resize is not None and (len(resize) != 2 or any(v < 1 or v != int(v) for v in resize)):
        raise InputError(f"{path}: [input] resize must be [height, width] in pixels, got {list(resize)}")
    for key in ("resize", "layout"):
        if decode == "none" and key in document.get("input", {}):
            raise InputError(f'{path}: [input] {key} is for images and needs decode = "image"')
    std = reader.numbers("input", "std")
    if std is not None and any(value <= 0 for value in std):
        raise InputError(f"{path}: [input] std must be above 0, got {list(std)}")
    scale = reader.numbers("input", "scale")
    if scale is not None and len(scale) != 1:
        raise InputError(f"{path}: [input] scale must be one number")
    return Description(
        input=InputDescription(
            name=reader.text("input", "name"),
            decode=decode,
            resize=None if resize is None else (int(resize[0]), int(resize[1])),
            scale=None if scale is None else scale[0],
            mean=reader.numbers("input", "mean"),
            std=std,
            layout=reader.choice("input", "layout", ("NCHW", "NHWC")),
            dtype=reader.text("input", "dtype"),
        ),
        output=reader.text("output", "name"),
        logits=reader.flag("output", "logits"),
        classes=reader.texts("output", "classes"),
        batch_size=reader.count("run", "batch_size"),
        threads=reader.count("run", "threads"),
        providers=reader.texts("run", "providers"),
    )


@dataclass(frozen=True)
class _Reader:
    path: Path
    document: dict[str, dict[str, Any]]

    def _get(self, section: str, key: str) -> Any:
        return self.document.get(section, {}).get(key)

    def _wrong(self, section: str, key: str, expected: str) -> InputError:
        value = self._get(section, key)
        return InputError(f"{self.path}: [{section}] {key} must be {expected}, got {value!r}")

    def text(self, section: str, key: str) -> str | None:
        value = self._get(section, key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(section, key, "a text")
        return value

    def texts(self, section: str, key: str) -> tuple[str, ...] | None:
        value = self._get(section, key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(section, key, "a list of texts")
        return tuple(value)

    def choice(self, section: str, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(section, key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self._wrong(section, key, f"one of {_listed(choices)}")
        return str(value)

    def flag(self, section: str, key: str) -> bool:
        value = self._get(section, key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(section, key, "true or false")
        return bool(value)

    def count(self, section: str, key: str) -> int | None:
        value = self._get(section, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self._wrong(section, key, "a whole number from 1 up")
        return value

    def numbers(self, section: str, key: str) -> tuple[float, ...] | None:
        value = self._get(section, key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(i, int | float) and not isinstance(i, bool) for i in items):
            raise self._wrong(section, key, "a number or a list of numbers")
        return tuple(float(item) for item in items)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
