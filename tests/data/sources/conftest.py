import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, which are never part of the project."""
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    folder = Path(os.environ.get("PRERANK_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing (PRERANK_DATA names another folder)")
    return folder
