import pytest

from sparing.errors import InputError
from sparing.models.description import Description, InputDescription, read_description

FULL = """
[input]
name = "image"
decode = "image"
resize = [224, 256]
scale = 2
mean = [0.1, 0.2, 0.3]
std = 0.5
layout = "NHWC"
dtype = "float32"
[output]
name = "scores"
logits = true
[run]
batch_size = 8
threads = 2
providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
"""


def test_every_key(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(FULL)
    assert read_description(path) == Description(
        input=InputDescription(
            "image", "image", (224, 256), 2.0, (0.1, 0.2, 0.3), (0.5,), "NHWC", dtype="float32"
        ),
        output="scores",
        logits=True,
        batch_size=8,
        threads=2,
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    )


def test_no_file_means_defaults(tmp_path):
    assert read_description(tmp_path / "none.toml") == Description()
    (tmp_path / "empty.toml").write_text("")
    assert read_description(tmp_path / "empty.toml") == Description()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input", "not valid TOML"),
        ("logits = true", "unknown key 'logits'; there are 'input', 'output', 'run'"),
        ("[inputs]", "unknown key 'inputs'"),
        ("[input]\nsize = 3", "unknown key 'size' in input; there are 'name', 'decode'"),
        ("[output]\nlogit = true", "unknown key 'logit' in output; there are 'name', 'logits'"),
        ('[input]\ndecode = "jpeg"', "decode must be one of 'none', 'image', got 'jpeg'"),
        ('[input]\ndecode = "image"\nlayout = "CHW"', "layout must be one of 'NCHW', 'NHWC'"),
        ('[input]\ndecode = "image"\nresize = 224', r"resize must be \[height, width\]"),
        ('[input]\ndecode = "image"\nresize = [0, 1]', r"resize must be \[height, width\]"),
        ("[input]\nresize = [32, 32]", 'resize is for images and needs decode = "image"'),
        ('[input]\nlayout = "NCHW"', "layout is for images"),
        ("[input]\nstd = [1, 0, 1]", r"std\[1\] must be a number above 0, got 0"),
        ("[input]\nmean = nan", "mean must be a number or a list of numbers.*, got nan"),
        ("[input]\nscale = [1, 2]", "scale must be a number or a list of one"),
        ('[input]\nmean = ["a"]', r"mean\[0\] must be a number, got 'a'"),
        ("[input]\nmean = true", "mean must be a number or a list of numbers"),
        ("[output]\nlogits = 1", "logits must be true or false, got 1"),
        ("[output]\nname = 1", "name must be a text, got 1"),
        ("[run]\nbatch_size = 0", "batch_size must be a whole number from 1, got 0"),
        ("[run]\nthreads = 1.5", "threads must be a whole number"),
        ('[run]\nproviders = "CPU"', "providers must be a list of texts"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path, text, message):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as e:
        read_description(path)
    assert str(path) in str(e.value)
