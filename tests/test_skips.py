"""What is skipped is said at the end of a run, with its reason and how many tests it hid."""

import pathlib
import shutil
import subprocess
import sys

CASES = """
import pytest

@pytest.mark.skipif(True, reason="no such device")
@pytest.mark.parametrize("i", range(3))
def test_a(i):
    pass

def test_b():
    pytest.importorskip("no_such_package", reason="no such package")

def test_c():
    pass
"""


def test_skipped_tests_are_counted_by_reason(tmp_path):
    for name in ("conftest.py", "processes.py"):
        shutil.copy(pathlib.Path(__file__).with_name(name), tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES)
    whole = "import pytest\npytest.skip('not here', allow_module_level=True)\n"
    (tmp_path / "test_whole.py").write_text(whole)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("skipped: ")]
    assert said == [
        "skipped: 3 tests: no such device",
        "skipped: 1 test: no such package",
        "skipped: 1 whole file: not here",
    ]
