"""One file of the user's own adds a method, and every command plays it.

The file writes a marker when it is run: who may run it is a promise too.
"""

import json
import re
import shutil

import numpy as np
import pytest

import l2ljax
from l2ljax.__main__ import main
from l2ljax.errors import InputError
from l2ljax.plugins import Plugins

MINE = '''"""A method, a model and an attack."""

import pathlib
from typing import Annotated, Any

import flax.linen as nn
from l2ljax import Method, image_and_gradient, solvers
from l2ljax.losses import ATTACK_LOSSES, adversarial

pathlib.Path({marker!r}).touch()


def mine(
    attacker: Any, *, trust: Annotated[float, "how far the attacker is trusted", "[0, 1]"] = 0.75
) -> Method:
    """A learned attacker that is not trusted wholly."""
    solver = solvers.l2l(attacker, image_and_gradient("sign"), steps=1, start="zero")

    def solve(*problem):
        inner = solver.solve(*problem)
        return inner._replace(delta=trust * inner.delta)

    method = Method(solver._replace(solve=solve), ATTACK_LOSSES["ce"], adversarial(0.0))
    return method._replace(learns=True)


class Net(nn.Module):
    num_classes: int
    units: Annotated[int, "units of the hidden layer", "> 0"] = 16

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.units)(x.reshape(len(x), -1))))


def brighter(rng, f, x, y, *, eps, norm):
    return (x + eps).clip(0, 1)


tiny = {{"model": "mlp", "attacker": "two_layer", "attacker_width": 0.0625, "batch_size": 256,
         "epochs": 1, "eps": "0.1", "theta_lr": 0.1, "label_smoothing": 0.0}}
'''
WAYS = ["--noplots", "--notensorboard", "--diagnose=0"]


class Place:
    """A folder with the user's file, and runs of it."""

    def __init__(self, folder):
        self.marker, self.file = folder / "marker", folder / "mine.py"
        self.file.write_text(MINE.format(marker=str(self.marker)))
        self.run, self.out = folder / "run", folder / "out"
        self.method, self.recipe = f"{self.file}:mine", f"{self.file}:tiny"

    def train(self, **more):
        words = {"method": self.method, "trust": 0.5, "recipe": self.recipe, "workdir": self.run}
        words |= {"final_attacks": f"clean,{self.file}:brighter", **more}
        return main(["train", *WAYS, *(f"--{name}={value}" for name, value in words.items())])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("place"))
    assert place.train() == 0
    return place


@pytest.fixture(autouse=True)
def nothing_is_written_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_help_shows_the_setting_and_config_holds_it_and_the_file(place, capsys):
    assert main(["train", "--help", f"--method={place.method}"]) == 0
    assert "--trust: how far the attacker is trusted [0.75]" in capsys.readouterr().out
    assert main(["train", "--help", f"--model={place.file}:Net"]) == 0
    assert "--units: units of the hidden layer [16]" in capsys.readouterr().out
    config = json.loads((place.run / "config.json").read_text())
    assert (config["method"], config["trust"]) == ("mine.py:mine", 0.5)
    assert config["plugins"] == Plugins([place.file]).sha256 and str(place.file) not in str(config)
    summary = json.loads((place.run / "summary.json").read_text())
    assert set(summary["test"]["best"]) == {"clean", "mine.py:brighter"}
    assert main(["train", f"--method={place.method}", "--trust=2"]) == 2
    assert "--trust=2" in capsys.readouterr().err
    assert main(["train", "--method=plain", "--trust=0.5"]) == 2
    assert "unknown flag 'trust'" in capsys.readouterr().err


def test_a_run_is_resumed_with_the_same_file_alone(place, tmp_path, capsys):
    assert place.train() == 0
    assert place.train(trust=0.25) == 2
    assert "--trust: 0.5 -> 0.25" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    there = Place(tmp_path / "elsewhere")
    there.run = place.run
    shutil.copy(place.file, there.file)
    assert there.train() == 0  # the same file in another folder
    there.file.write_text(place.file.read_text() + "\n# changed\n")
    assert there.train() == 2
    assert "mine.py has changed" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="mine.py has changed since the run"):
        l2ljax.load(place.run, plugins=[there.file])


def test_load_never_runs_a_file_that_is_not_given(place, tmp_path, capsys):
    assert place.marker.exists()
    here = Place(tmp_path)  # the file that config.json names, where it would be found
    line = r"method mine.py:mine .*give it, --plugins=PATH/mine.py or plugins=\['PATH/mine.py'\]"
    with pytest.raises(InputError, match=line):
        l2ljax.load(place.run)
    workdir = f"--workdir={place.run}"
    for words in (
        ["evaluate", workdir],
        ["export", workdir],
        ["transfer", f"--targets={place.run}"],
    ):
        assert main(words) == 2
        assert re.search(line, capsys.readouterr().err)
    assert not here.marker.exists()
    run = l2ljax.load(place.run, "last", plugins=[place.file])
    assert run.game.method.learns and run.config["trust"] == 0.5
    assert run.classifier(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)


def test_every_command_plays_it(place, tmp_path, capsys):
    plugins, run = f"--plugins={place.file}", f"--workdir={place.run}"
    attack = f"{place.file}:brighter"
    attacks = f"--attacks=clean,{attack},fgsm+mine.py:brighter,learned:{place.run}"
    assert main(["evaluate", run, plugins, attacks, "--num_examples=64"]) == 0
    found = json.loads((place.run / "evaluation.json").read_text())["results"]
    assert {"mine.py:brighter", "fgsm+mine.py:brighter"} < set(found)
    assert found["fgsm+mine.py:brighter"]["accuracy"] <= found["mine.py:brighter"]["accuracy"]

    assert main(["export", run, plugins, f"--out={tmp_path / 'export'}"]) == 0
    assert (tmp_path / "export" / "phi.npz").exists()
    words = [f"--targets={place.run}", plugins, f"--attacks={attack}", "--num_examples=64"]
    assert main(["transfer", *words, "--noplots", f"--output={tmp_path / 'transfer'}"]) == 0
    assert "mine.py:brighter" in (tmp_path / "transfer.md").read_text()

    words = [f"--methods={place.method}", f"--against={place.method}", "--seeds=1", "--draws=10"]
    words += [f"--recipe={place.recipe}", f"--attacks=clean,{attack}", "--num_examples=64"]
    words += [f"--workdir={tmp_path / 'compare'}", "--flags=--trust=0.25 --diagnose=0"]
    assert main(["compare", *words]) == 0
    made = json.loads((tmp_path / "compare" / "digits.json").read_text())
    assert "mine.py:brighter" in made["attacks"] and "mine.py:mine" in json.dumps(made["rows"])
    assert f"--methods={place.method}" in made["command"]
    config = (tmp_path / "compare" / "digits-mine-1" / "config.json").read_text()
    assert json.loads(config)["trust"] == 0.25


def test_search_draws_what_the_signature_declares(place, tmp_path, monkeypatch):
    from l2ljax.commands import search

    few = {"epochs": (1,), "batch_size": (256,), "model": ("mlp",), "attacker": ("two_layer",)}
    few |= {"attacker_width": (0.0625,)}
    monkeypatch.setattr(search, "COMMON", few)
    monkeypatch.setattr(search, "draw", lambda space, *_: {n: w[0] for n, w in space.items()})
    assert search.space_of("mine.py:mine", Plugins([place.file])) == few | {"trust": [0.375, 0.75]}
    words = ["search", f"--method={place.method}", f"--out={tmp_path}"]
    assert main([*words, "--trials=1"]) == 0
    found = json.loads((tmp_path / "mine.jsonl").read_text())
    assert found["flags"]["trust"] == 0.375 and 0 <= found["robust"] <= 1


WRONG = {
    "missing file": (None, "mine", r"plug-in .*other.py cannot be read: No such file"),
    "syntax": ("def f(:\n    pass", "f", r"plug-in .*other.py, line 1: "),
    "no such name": ("def mine():\n    pass", "mime", "mime.*did you mean 'mine'"),
    "not annotated": (
        "def f(*, much=1.0):\n    'A method.'",
        "f",
        "f: the keyword much must say what it is, as in much: Annotated",
    ),
    "no docstring": ("def f():\n    pass", "f", "f has no docstring"),
    "no function": ("f = 3", "f", "int is no function"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line(case, tmp_path, capsys):
    text, name, line = WRONG[case]
    file = tmp_path / "other.py"
    if text is not None:
        file.write_text(text)
    assert main(["train", f"--method={file}:{name}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(line, told), told
    assert not (tmp_path / "runs").exists()


def test_two_different_files_of_one_name_are_refused(place, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def brighter():\n    pass\n")
    words = [f"--method={place.method}", f"--model={tmp_path / 'mine.py'}:brighter"]
    assert main(["train", *words]) == 2
    assert "two different plug-ins are called mine.py" in capsys.readouterr().err
