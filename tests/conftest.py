"""One compilation cache for the whole suite: in the checkout, and kept between runs.

And quick compilation: most of the suite's time is compilation of what runs once. LLVM optimises
little, every program is one piece of code, and loops are written by XLA's older emitters, which
take a third of the time (measured on the step of wrn-10-1). After each module its programs are
freed: a process may map only so many pieces of memory (65,530), every compiled program takes some,
and XLA crashes where there are no more. At the end every reason for a skip is said, with the number
of tests.
"""

import collections
import os
import pathlib

from processes import quick_flags

# Before jax is imported; the scripts that tests start as processes of their own inherit it.
os.environ["XLA_FLAGS"] = quick_flags(os.environ.get("XLA_FLAGS", ""))

import jax
import pytest

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"

# Through the environment too: some tests run the real scripts as processes of their own.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_terminal_summary(terminalreporter):
    """One line for each reason why tests were skipped, and how many: also under -q."""
    tests, files = collections.Counter(), collections.Counter()
    for report in terminalreporter.stats.get("skipped", []):
        _, _, why = report.longrepr
        counted = files if isinstance(report, pytest.CollectReport) else tests
        counted[why.removeprefix("Skipped: ")] += 1
    for counted, what in ((tests, "test"), (files, "whole file")):
        for why, n in counted.most_common():
            terminalreporter.write_line(f"skipped: {n} {what}{'s' * (n > 1)}: {why}")


@pytest.fixture(scope="module", autouse=True)
def freed():
    """Nothing compiled outlives its module."""
    yield
    jax.clear_caches()
