"""What a test needs that may not be installed; without it the test is skipped and counted."""

import importlib.util

import pytest

gymnax = pytest.mark.skipif(
    importlib.util.find_spec("gymnax") is None, reason="gymnax is not installed (extra: rl)"
)
