import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data that only some machines have."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SPARING_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set SPARING_DATA to its path")
    return folder
