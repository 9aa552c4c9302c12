"""The comparison of an accelerator with the CPU; here the CPU stands for both."""

import json

import numpy as np

import accelerator

OPTIONS = {"steps": 2, "batch_size": 32, "compilation_cache": ""}


def test_the_programs_of_a_gpu_compute_on_a_cpu_what_those_of_a_cpu_do(monkeypatch):
    monkeypatch.setattr(accelerator, "prepare", lambda folder: None)  # the process is the tests'
    found = accelerator.differences("fgsm", "cpu", OPTIONS)
    assert set(found) == {"64", "32"}
    assert max(found["64"].values()) <= accelerator.TOLERANCE
    assert 0 < found["32"]["theta"] < 1e-3, "float32 rounds, and float64 was not float32"


def test_the_difference_is_each_leafs_own_and_nan_is_never_close():
    a = {"small": np.array([1e-6, 0.0]), "large": np.array([1.0, 2.0])}
    b = {"small": np.array([2e-6, 0.0]), "large": np.array([1.0, 2.0])}
    assert accelerator.apart(a, a) == 0
    np.testing.assert_allclose(accelerator.apart(a, b), 0.5)
    assert accelerator.apart(a, a | {"large": np.array([np.nan, 2.0])}) == np.inf


class AtOnce:
    """An executor that answers from a table."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, _, method, *__):
        value = {"plain": 1e-12, "pgm": 1e-6}[method]
        self.found = {bits: dict.fromkeys(accelerator.COMPARED, value) for bits in ("64", "32")}
        return Done(self.found)


class Done:
    """A job that has ended."""

    def __init__(self, found):
        self.found = found

    def result(self):
        return self.found


def test_a_method_that_differs_is_named_and_ends_with_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accelerator, "ProcessPoolExecutor", AtOnce)
    flags = ["--accelerator=cpu", f"--out={tmp_path / 'found'}"]
    assert accelerator.main([*flags, "--methods=plain"]) == 0
    assert accelerator.main([*flags, "--methods=plain,pgm"]) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: row[4] for row in rows if row[:1] in (["plain"], ["pgm"])} == {
        "plain": "yes",
        "pgm": "NO",
    }
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["differences"]["pgm"]["64"]["theta"] == 1e-6


def test_an_unknown_method_and_a_device_that_is_not_there_are_refused(capsys):
    assert accelerator.main(["--methods=none"]) == 2
    assert "--methods=none is none of plain" in capsys.readouterr().err
    assert accelerator.main(["--accelerator=nothing"]) == 2
    assert "--accelerator=nothing: there is none here" in capsys.readouterr().err
