"""A run of imitation, as a call and as a command: it learns, resumes, and refuses what is wrong."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import imitation_speed
from l2ljax import imitation
from l2ljax.commands import gail
from l2ljax.errors import InputError
from l2ljax.imitation import PPO, Imitation, collect, comparison, make_environment, play
from l2ljax.imitation import demonstrations as experts
from l2ljax.imitation import runs as imitating
from l2ljax.record import read
from needs import gymnax

pytestmark = gymnax

SMALL = ["--seeds=0,1", "--copies=4", "--steps=32", "--episodes=2", "--checkpoint_every=2"]
TINY = {"copies": 2, "steps": 4, "epochs": 1, "minibatches": 1}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Three trajectories of a controller that holds the pole for 500 steps."""
    env = make_environment("CartPole-v1")
    push = jnp.array([0.1, 0.5, 1.0, 1.0])
    episodes = play(jax.random.key(0), env, lambda rng, s: (s @ push > 0).astype(jnp.int32), 3)
    found = collect(env, episodes)
    assert (found.returns == 500).all()
    path = tmp_path_factory.mktemp("expert") / "cart.npz"
    experts.write(path, found, {"expert": "a controller"})
    return path


def run(demonstrations, workdir, *flags):
    given = [f"--demonstrations={demonstrations}", f"--workdir={workdir}"]
    return gail.main(["--environment=CartPole-v1", *given, *SMALL, *flags])


def test_what_is_written_is_read_back(demonstrations):
    found = experts.read(demonstrations, make_environment("CartPole-v1"))
    assert found.environment == "CartPole-v1" and found.s.shape == (1500, 4)
    assert found.lengths.tolist() == [500] * 3 and not found.terminated.any()


def test_a_call_in_memory_learns_writes_nothing_and_says_nothing(
    demonstrations, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    found = experts.read(demonstrations, make_environment("CartPole-v1"))
    run = imitation.imitate(
        environment="CartPole-v1",
        follower="l2l_gail",
        seeds=[0, 1],
        iterations=20,
        steps=64,
        episodes=10,
        demonstrations=found,
    )
    assert run.expert == 500 and run.config["seeds"] == "0,1"
    curve = run.metrics["return"]
    assert curve.shape == run.metrics["phi/accuracy"].shape == (2, 20)
    assert np.mean(run.summary["returns"]) > 100 > 3 * np.nanmean(curve[:, 0])
    falling = make_environment("CartPole-v1").reset(jax.random.key(0))[0].at[2:].set(0.5)
    assert run.act(1)(falling) == 1
    assert not any(tmp_path.iterdir()) and capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is handler


def lines_of(workdir):
    lines = read(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    demonstrations, tmp_path, monkeypatch, capsys
):
    flags = ["--iterations=4", "--follower=l2l_gail", "--state_gradient"]
    settings = {"iterations": 4, "follower": "l2l_gail", "state_gradient": True}
    whole = imitation.imitate(
        environment="CartPole-v1",
        seeds="0,1",
        copies=4,
        steps=32,
        episodes=2,
        demonstrations=demonstrations,
        **settings,
    )

    class Stopping(imitating.Progress):
        def update(self, step, **values):
            super().update(step, **values)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(imitating, "Progress", Stopping)
        assert run(demonstrations, tmp_path / "cut", *flags) == 128 + signal.SIGTERM
    assert "turn 3 of 4; the same command resumes it" in capsys.readouterr().err
    assert run(demonstrations, tmp_path / "cut", *flags) == 0
    assert "the expert's 500.0" in capsys.readouterr().out
    lines = lines_of(tmp_path / "cut")
    assert len(lines) == 4
    for name, values in whole.metrics.items():
        for i, seed in enumerate((0, 1)):
            np.testing.assert_array_equal([line[f"{name}/{seed}"] for line in lines], values[i])
    text = (tmp_path / "cut" / "summary.json").read_text()
    summary = json.loads(text)
    assert summary["returns"] == whole.summary["returns"] and summary["seconds"] > 0
    assert run(demonstrations, tmp_path / "cut", *flags) == 0
    assert "turn" not in capsys.readouterr().err  # finished: nothing is run again
    assert (tmp_path / "cut" / "summary.json").read_text() == text
    assert run(demonstrations, tmp_path / "cut", "--iterations=6") == 2
    assert "a run with other flags" in capsys.readouterr().err


def test_cloning_is_a_run_without_turns(demonstrations, tmp_path, monkeypatch):
    monkeypatch.setitem(experts.CLONING, "steps", 300)
    assert run(demonstrations, tmp_path / "run", "--follower=cloning") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(summary["returns"]) == 2 and np.mean(summary["returns"]) > 100
    again = imitation.imitate(
        environment="CartPole-v1",
        follower="cloning",
        seeds="0,1",
        copies=4,
        steps=32,
        episodes=2,
        demonstrations=demonstrations,
        workdir=tmp_path / "run",
    )
    assert again.summary == summary and not again.metrics
    assert jax.tree.leaves(again.theta)[0].shape[0] == 2


def test_a_small_expert_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(experts.RECIPES, "CartPole-v1", (2, PPO(epochs=1, minibatches=1)))
    monkeypatch.setattr(experts, "COPIES", 2)
    monkeypatch.setattr(experts, "STEPS", 16)
    path = tmp_path / "folder" / "cart.npz"
    flags = ["--make_expert", "--environment=CartPole-v1", f"--demonstrations={path}"]
    assert gail.main(flags) == 0
    with np.load(path) as content:
        assert "PPO, 64 steps" in str(content["made"])
        assert len(content["returns"]) == experts.TRAJECTORIES
    assert "10 trajectories of CartPole-v1" in capsys.readouterr().out


def test_a_wrong_setting_of_the_call_is_one_line():
    for given, message in (
        ({"phi_rl": 1.0}, "did you mean 'phi_lr'"),
        ({"episodes": 0}, "episodes=0 must be positive"),
        ({"seeds": []}, "is no list of whole numbers"),
        ({"demonstrations": "none.npz"}, "none.npz: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            imitation.imitate(environment="CartPole-v1", **given)


def test_the_speed_of_seeds_together_and_alone_is_timed(tmp_path, capsys, monkeypatch):
    resolve = imitation_speed.resolve
    monkeypatch.setattr(imitation_speed, "resolve", lambda given: resolve(given | TINY))
    flags = ["--environment=CartPole-v1", "--follower=constant_reward", "--seeds=2", "--rounds=1"]
    assert imitation_speed.main([*flags, f"--out={tmp_path / 'speed'}"]) == 0
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    rate = row["steps_a_second"]
    assert row["ratio"] == pytest.approx(rate["together"] / rate["alone"])
    assert rate["together"] == pytest.approx(2 * 8 / row["seconds"]["together"][0])
    assert "one by one" in capsys.readouterr().out
    assert imitation_speed.main(["--seeds=0"]) == 2


def test_bad_flags_are_one_line(capsys):
    for flags, message in (
        ([], "give --environment"),
        (["--environment=CartPole"], "did you mean 'CartPole-v1'"),
        (["--environment=CartPole-v1", "--follower=l2l_gial"], "did you mean 'l2l_gail'"),
        (["--environment=CartPole-v1", "--trajectories=0"], "--trajectories=0 must be positive"),
        (["--environment=CartPole-v1", "--minibatches=3"], "does not divide the 2048 steps"),
        (["--environment=CartPole-v1", "--gamma=1.5"], "--gamma=1.5 must lie between 0 and 1"),
        (["--environment=CartPole-v1", "--seeds=a"], "--seeds=a is no list of whole numbers"),
        (["--environment=CartPole-v1", "--demonstrations=none.npz"], "--make_expert"),
        (["--compare", "--environment=CartPole-v1,Pendulum"], "did you mean 'Pendulum-v1'"),
        (["--compare", "--trials=-1"], "--trials=-1 must not be negative"),
        (["--environment=CartPole-v1", "--reward=airy"], "did you mean 'airl'"),
    ):
        assert gail.main(flags) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_demonstrations_that_cannot_be_used_are_one_line(demonstrations, tmp_path, capsys):
    def refused(path, *flags):
        assert run(path, tmp_path / "run", *flags) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not (tmp_path / "run").exists()
        return said

    assert "4 trajectories asked for, 1 to 3 are there" in refused(
        demonstrations, "--trajectories=4"
    )
    with np.load(demonstrations) as content:
        good = dict(content)
    changes = {
        "of Pendulum-v1, not of CartPole-v1": {"environment": "Pendulum-v1"},
        "no whole trajectories": {"s": good["s"][:-1]},
        "not finite": {"returns": good["returns"] * np.nan},
        "holds no whole trajectories of CartPole-v1: s, a are ((0, 4)": {
            "s": good["s"][:0],
            "a": good["a"][:0],
            "lengths": good["lengths"] * 0,
        },
    }
    for message, change in changes.items():
        np.savez(tmp_path / "bad.npz", **(good | change))
        assert message in refused(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", s=good["s"])
    assert "it lacks environment, a, lengths" in refused(tmp_path / "bad.npz")
    for content in (b"", b"no archive", demonstrations.read_bytes()[:-200]):
        (tmp_path / "bad.npz").write_bytes(content)
        assert "damaged, or no npz file" in refused(tmp_path / "bad.npz")


def test_without_gymnax_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gymnax", None)
    assert gail.main(["--environment=CartPole-v1"]) == 2
    assert "pip install 'l2ljax[rl]'" in capsys.readouterr().err


def test_cells_are_compared_tuned_alike_and_drawn(demonstrations, tmp_path, capsys, monkeypatch):
    made = []

    def imitate(*, workdir, **given):
        """A run that gets the better the larger its rate."""
        made.append(workdir.name)
        seeds = imitating.seeds_of(given["seeds"])
        total = np.array([100, 200]) + 1e4 * given["phi_lr"]
        metrics = {"return": np.add.outer(seeds, total)}
        if given["follower"] != "constant_reward":
            metrics["phi/accuracy"] = np.full((len(seeds), 2), 0.5)
        return Imitation(given, {"returns": [200.0 + seed for seed in seeds]}, {}, metrics, 500.0)

    monkeypatch.setattr(comparison, "imitate", imitate)
    flags = ["--compare", "--environment=CartPole-v1", "--follower=gail,l2l_gail,constant_reward"]
    flags += ["--trajectories=1,2", "--iterations=2", "--trials=4", "--tune_trajectories=1"]
    flags += [f"--demonstrations={demonstrations}", f"--workdir={tmp_path / 'runs'}", *SMALL]
    flags += ["--draws=50"]
    assert gail.main(flags) == 0
    out = tmp_path / "runs" / "table"
    report = json.loads(out.with_suffix(".json").read_text())
    assert [(r["config"]["follower"], r["config"]["trajectories"]) for r in report["rows"]] == [
        (name, n) for n in (1, 2) for name in ("gail", "l2l_gail", "constant_reward")
    ]
    tuned = report["tuning"]["CartPole-v1"]
    assert set(tuned) == {"gail", "l2l_gail"}
    trials = [[trial["flags"] for trial in tuned[name]["trials"]] for name in tuned]
    assert trials[0] == trials[1] and trials[0][0] == {} and len(trials[0]) == 4
    largest = max(trial.get("phi_lr", 1e-3) for trial in trials[0])
    for row in report["rows"]:
        low, high = row["final"][1:]
        assert low <= row["final"][0] <= high
        assert ("against_gail" in row) == (row["config"]["follower"] != "gail")
        if row["config"]["follower"] in tuned:
            assert row["config"]["phi_lr"] == largest
    page = out.with_suffix(".md").read_text()
    assert "best of 4 trials" in page and "not the paper's experiment" in page
    assert "Minus `gail` on the same task:" in page and "What tuning chose" in page
    assert page.count("| CartPole-v1 | `l2l_gail` |") == 2 * 2 + 1
    assert all(row["share"] == pytest.approx((200.5 - 20) / 480) for row in report["rows"])
    for picture in ("table.png", "table_accuracy.png"):
        assert (tmp_path / "runs" / picture).read_bytes().startswith(b"\x89PNG")
    assert len(made) == 2 * 4 + 6
    assert f"written to {out}.md" in capsys.readouterr().out


def test_every_follower_is_tuned_with_the_same_draws_and_what_is_its_own():
    plain = comparison.trial_settings("gail", 6)
    for follower, own in (("gail_gp", {"penalty"}), ("l2l_gail_opt", {"unroll", "rule_lr"})):
        drawn = comparison.trial_settings(follower, 6)
        assert drawn[0] == plain[0] == {}
        for mine, common in zip(drawn[1:], plain[1:], strict=True):
            assert set(mine) - set(common) == own
            assert mine == mine | common
        assert len({str(trial) for trial in drawn}) == 6
