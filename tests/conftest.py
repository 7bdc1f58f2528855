"""What several files of tests share."""

import pytest

from tests.warm_python import WarmPython


@pytest.fixture(scope="session")
def python():
    """A Python that has imported torch already; see `tests/warm_python.py`."""
    python = WarmPython()
    yield python
    python.close()
