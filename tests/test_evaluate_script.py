"""evaluate.py: cascades, interrupts, learned attackers, saved images, and what it refuses."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.commands import evaluate, train
from l2ljax.evaluation import resume
from l2ljax.evaluation.accuracy import freeze
from l2ljax.masking import LIMITS
from l2ljax.runs import config as configuration
from l2ljax.runs.from_config import game_of
from l2ljax.runs.run import load_data

SMALL = [
    "--model=mlp",
    "--attacker=slim",
    "--attacker_width=0.03125",
    "--batch_size=128",
    "--epochs=1",
    "--diagnose=0",
    "--final_attacks=clean",
    "--noplots",
    "--notensorboard",
]
BATCH_MAX = "--grad_norm=batch_max"
SHORT = ["--apgd_steps=4", "--fab_steps=3", "--targets=2", "--square_queries=20"]
CASCADE = ["--attacks=pgm2,autoattack", "--num_examples=60", "--batch_size=20", *SHORT]


def trained(folder, *flags):
    workdir = folder / "run"
    assert train.main([*SMALL, *flags, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("grad"), BATCH_MAX)


@pytest.fixture(scope="module")
def multistep(tmp_path_factory):
    flags = ["--method=multistep_l2l", "--inner_steps=2", BATCH_MAX]
    return trained(tmp_path_factory.mktemp("multi"), *flags)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), "--method=plain")


def run(workdir, output, *flags):
    return evaluate.main([f"--workdir={workdir}", f"--output={output}", *flags])


def results(path):
    return json.loads(path.read_text())["results"]


def test_a_cascade_tells_the_accuracy_after_each_attack(workdir, tmp_path, capsys):
    out = tmp_path / "out.json"
    attacks = "--attacks=clean,autoattack,autoattack_quick"
    assert run(workdir, out, attacks, "--num_examples=60", "--batch_size=20", *SHORT) == 0
    said = capsys.readouterr().out
    found = results(out)
    after = found["autoattack"]["after"]
    assert [step["attack"] for step in after] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    accuracies = [step["accuracy"] for step in after]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == found["clean"]["accuracy"]
    assert accuracies[-1] == found["autoattack"]["accuracy"]
    robust = found["autoattack"]["robust"]
    assert robust.count("1") / 60 == accuracies[-1] and set(robust) <= {"0", "1"}
    assert 0 < found["autoattack"]["largest_perturbation"] <= 0.2 + 1e-6
    quick, whole = (
        next(line for line in said.splitlines() if line.startswith(f"{name} "))
        for name in ("autoattack_quick", "autoattack")
    )
    assert "<=" in quick and "<=" not in whole
    assert found["autoattack_quick"]["upper_bound_of"] == "autoattack"
    assert "largest linf perturbation" in said and "0 claims refused" in said
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        assert f"  {name} " in said
    assert json.loads(out.read_text())["budget"]["apgd_steps"] == 4


class StopAfter:
    """A Stop that a signal reaches after so many batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def signal(self):
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else None


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """What an evaluation writes that is never interrupted."""
    path = tmp_path_factory.mktemp("whole") / "whole.json"
    assert run(workdir, path, *CASCADE) == 0
    return path


@pytest.mark.parametrize("batches", [2, 9])
def test_an_interrupted_evaluation_goes_on(workdir, whole, tmp_path, capsys, monkeypatch, batches):
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patch:
        patch.setattr(resume, "Stop", StopAfter(batches))
        assert run(workdir, parts, *CASCADE) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "stopped by SIGTERM and saved at" in said and "goes on" in said
    assert not parts.exists() and (tmp_path / "parts.unfinished").exists()
    assert run(workdir, parts, *CASCADE) == 0
    assert "goes on from" in capsys.readouterr().err
    assert not (tmp_path / "parts.unfinished").exists()
    timeless = [
        {name: {k: v for k, v in entry.items() if k not in ("seconds", "after")}}
        for path in (whole, parts)
        for name, entry in results(path).items()
    ]
    assert timeless[: len(timeless) // 2] == timeless[len(timeless) // 2 :]


def interrupted(workdir, out, monkeypatch, flags=CASCADE):
    with monkeypatch.context() as patch:
        patch.setattr(resume, "Stop", StopAfter(3))
        assert run(workdir, out, *flags) == 128 + signal.SIGTERM
    return out.with_suffix(".unfinished")


def refused(code, capsys):
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    return said[-1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_state_is_told(workdir, tmp_path, capsys, monkeypatch, damage):
    out = tmp_path / "out.json"
    state = interrupted(workdir, out, monkeypatch)
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes({"flip": bytes(content), "cut": content[:-20], "empty": b""}[damage])
    capsys.readouterr()
    line = refused(run(workdir, out, *CASCADE), capsys)
    assert str(state) in line and "is damaged: delete it" in line and not out.exists()


def test_a_state_of_another_evaluation_is_refused(workdir, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.json"
    flags = ["--attacks=pgm2,fgsm", "--num_examples=60", "--batch_size=20"]
    interrupted(workdir, out, monkeypatch, flags)
    line = refused(run(workdir, out, *flags, "--eps=0.1", "--seed=3"), capsys)
    assert "eps: 0.2 -> 0.1; seed: 0 -> 3" in line
    assert run(workdir, tmp_path / "other.json", "--attacks=clean", "--num_examples=20") == 0
    assert run(workdir, out, *flags, "--batch_size=30") == 0  # no result depends on it


def test_adversarial_images_are_saved_with_what_became_of_them(workdir, tmp_path):
    out, images = tmp_path / "out.json", tmp_path / "images.npz"
    assert run(workdir, out, *CASCADE, f"--save_adversarials={images}") == 0
    found = results(out)
    with np.load(images) as saved:
        x = saved["x"] / np.float32(255)
        assert len(saved["y"]) == 60
        for name in ("pgm2", "autoattack"):
            robust = saved[f"{name}/robust"]
            assert "".join("01"[int(stood)] for stood in robust) == found[name]["robust"]
            moved = np.abs(saved[f"{name}/x_adv"] - x).max((1, 2, 3))
            assert moved.max() <= 0.2 + 1e-6 and (moved[robust] < 1e-6).all()


def test_another_ball_needs_a_radius(workdir, tmp_path, capsys):
    out = tmp_path / "out.json"
    flags = ["--norm=l2", "--attacks=pgm5,apgd-ce", "--num_examples=40", *SHORT]
    assert "--norm=l2 needs --eps" in refused(run(workdir, out, *flags), capsys)
    assert run(workdir, out, *flags, "--eps=1.5") == 0
    assert "largest l2 perturbation" in capsys.readouterr().out
    assert 0.5 < results(out)["pgm5"]["largest_perturbation"] <= 1.5 + 1e-6
    strict = ["--norm=l2", "--eps=1", "--attacks=cw_strict"]
    assert "'cw_strict' has no l2 form" in refused(run(workdir, out, *strict), capsys)


def test_a_runs_own_attacker_is_an_attack(workdir, multistep, tmp_path, capsys):
    out = tmp_path / "out.json"
    names = [f"learned:{workdir}", f"learned:{multistep}"]
    flags = [f"--attacks=clean,{','.join(names)}", "--num_examples=100"]
    assert run(workdir, out, *flags) == 0
    found = results(out)
    for name in names:
        assert found[name]["accuracy"] <= found["clean"]["accuracy"]
        assert 0 <= found[name]["largest_perturbation"] <= 0.2 + 1e-6
    assert run(workdir, tmp_path / "frozen.json", *flags, "--learned_scaling=frozen") == 0
    frozen = results(tmp_path / "frozen.json")
    assert frozen[names[0]]["largest_perturbation"] != found[names[0]]["largest_perturbation"]
    longer = [f"--attacks={names[1]}", "--num_examples=100", "--learned_steps=5"]
    assert run(workdir, tmp_path / "longer.json", *longer) == 0


def test_what_is_no_attacker_is_refused(workdir, plain, tmp_path, capsys):
    out = tmp_path / "out.json"
    for flags, words in (
        ([f"--attacks=learned:{plain}"], "plain trains no attacker"),
        (["--attacks=learned:nowhere"], "nowhere is no run"),
        (["--attacks=learned:"], "config.json"),
        ([f"--attacks=learned:{workdir}", "--learned_steps=3"], "grad_l2l has no steps to count"),
        (["--attacks=pgm2,pgm2"], "'pgm2' is named twice"),
        (["--attacks=apgd"], "unknown attack 'apgd': did you mean 'apgd-"),
        (["--targets=0"], "--targets=0 must be positive"),
        (["--norm=l1"], "unknown --norm 'l1'"),
    ):
        assert words in refused(run(workdir, out, *flags), capsys)
    assert not out.exists()


def test_curves_and_the_masking_report_end_in_the_json(workdir, multistep, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.json"
    flags = ["--attacks=clean", "--num_examples=24", "--curves", "--masking_report", *SHORT]
    more = [f"--siblings={multistep}", "--response_epochs=1"]
    assert run(workdir, out, *flags, *more) == 0
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {"robustness.png", "surface.png"} <= {path.name for path in tmp_path.iterdir()}
    assert written["curves"]["images"] == 24
    checks = [check["name"] for check in written["masking"]["checks"]]
    assert set(checks) == set(LIMITS) and all(name in said for name in checks)
    assert written["masking"]["not_made"] == {}
    assert f"verdict: {written['masking']['verdict']}" in said
    refusal = refused(run(workdir, out, *flags, "--norm=l2", "--eps=1"), capsys)
    assert "--masking_report looks at the l_inf ball" in refusal
    assert "nowhere is no run" in refused(run(workdir, out, *flags, "--siblings=nowhere"), capsys)


def test_a_run_in_bfloat16_is_attacked_in_float32():
    """The same weights: a search that ended on bfloat16 claims would be too weak."""
    config = configuration.resolve({"dataset": "digits", "model": "mlp", "bf16": True})
    game = game_of(config, load_data(config, None))
    state, x = game.init(0), jnp.zeros((2, 8, 8, 1))
    weights = state.theta, state.theta_stats
    assert "bf16" in str(jax.make_jaxpr(freeze(game.apply)(*weights))(x))
    assert "bf16" not in str(jax.make_jaxpr(game.frozen(*weights))(x))
