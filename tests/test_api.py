"""The library as a library: train, load, make_game and fit, called from Python."""

import importlib
import json
import logging
import pkgutil
import shutil
import signal
import subprocess
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import l2ljax
from l2ljax.checkpoint import restore_any
from l2ljax.commands import train as command
from l2ljax.errors import InputError
from processes import environment, timeless

SMALL = {
    "method": "grad_l2l",
    "model": "mlp",
    "attacker": "two_layer",
    "attacker_width": 0.03125,
    "batch_size": 256,
    "epochs": 3,
    "ema_decay": 0.9,
}
WAYS = {"diagnose": 16, "final_attacks": "clean,fgsm", "log_every": 2, "tensorboard": False}
CLOCKS = ("time", "seconds/train", "seconds/validation")


def flags(**more):
    return [
        f"--{name}={value}" for name, value in {**SMALL, **WAYS, "plots": False, **more}.items()
    ]


@pytest.fixture(scope="module")
def by_command(tmp_path_factory):
    """The folder of a run that the command has made."""
    workdir = tmp_path_factory.mktemp("command") / "run"
    assert command.main(flags(workdir=workdir)) == 0
    return workdir


def same_run(a, b):
    """Metrics but for the clocks, summaries and every checkpoint, bit for bit."""

    def lines(workdir):
        text = (workdir / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in text]

    def summary(workdir):
        found = json.loads((workdir / "summary.json").read_text())
        return timeless({k: v for k, v in found.items() if k != "made_with"})

    assert lines(a) == lines(b) and summary(a) == summary(b)
    for kind in ("last", "best", "best_ema"):
        one, two = restore_any(a, kind=kind), restore_any(b, kind=kind)
        same = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), one[0], two[0])
        assert one[2] == two[2] and all(jax.tree.leaves(same)), kind


class Stopped(Exception):
    """What a callback of the tests raises to end a run in its middle."""


def stop_after(epoch):
    def callback(end):
        if end.epoch == epoch:
            raise Stopped

    return callback


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run that a callback has ended in its second epoch; to be copied."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Stopped):
        l2ljax.train(workdir=workdir, callbacks=[stop_after(2)], **SMALL, **WAYS)
    return workdir


def test_the_call_does_what_the_command_does(by_command, tmp_path, capsys):
    run = l2ljax.train(seed=0, workdir=tmp_path / "run", **SMALL, **WAYS)
    same_run(by_command, tmp_path / "run")
    assert run.summary["test"]["best"]["fgsm"]["accuracy"] == pytest.approx(
        json.loads((by_command / "summary.json").read_text())["test"]["best"]["fgsm"]["accuracy"]
    )
    told = capsys.readouterr()
    assert told.out == told.err == ""


def test_each_resumes_what_the_other_began(by_command, begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "a")
    assert command.main(flags(workdir=tmp_path / "a")) == 0
    same_run(by_command, tmp_path / "a")

    from l2ljax.runs import loop

    monkeypatch.setattr(loop.Loop, "tell", lambda self, end: signal.raise_signal(signal.SIGINT))
    assert command.main(flags(workdir=tmp_path / "b")) == 128 + signal.SIGINT
    monkeypatch.undo()
    l2ljax.train(workdir=tmp_path / "b", **SMALL, **WAYS)
    same_run(by_command, tmp_path / "b")


def test_other_settings_than_those_of_the_folder_are_refused(by_command):
    with pytest.raises(InputError, match="holds a run with other flags.*--theta_lr"):
        l2ljax.train(workdir=by_command, **SMALL, theta_lr=0.5)
    with pytest.raises(InputError, match="unknown setting 'theta_l'.*'theta_lr'"):
        l2ljax.train(workdir=by_command, **SMALL, theta_l=0.5)
    with pytest.raises(InputError, match="--epochs: 3.5 is no whole number"):
        l2ljax.train(workdir=by_command, **{**SMALL, "epochs": 3.5})


def test_a_radius_is_the_same_as_a_text_and_as_a_number(tmp_path):
    few = {**SMALL, "epochs": 1, "method": "plain"}
    l2ljax.train(workdir=tmp_path, eps="8/255", **few, **WAYS)
    assert (
        l2ljax.train(workdir=tmp_path, eps=8 / 255, **few, **WAYS).summary["test"]["best"]["fgsm"][
            "eps"
        ]
        == "8/255"
    )


def test_callbacks_are_told_of_every_epoch_and_may_end_the_run(tmp_path):
    told = []

    def callback(end):
        told.append((end.epoch, end.step, end.metrics["val/clean"], int(end.state.step)))
        return end.epoch == 2

    run = l2ljax.train(workdir=tmp_path, callbacks=[callback], **SMALL, **WAYS)
    steps = run.game.steps_per_epoch
    assert [(e, s, t) for e, s, _, t in told] == [(1, steps, steps), (2, 2 * steps, 2 * steps)]
    assert run.summary["stopped"] == 2 and run.summary["stopped_by"] == "callback"
    assert run.at("last").step == 2 * steps
    l2ljax.train(workdir=tmp_path, callbacks=[callback], **SMALL, **WAYS)
    assert len(told) == 2, "a run that a callback has ended is not continued"


def test_on_resume_callbacks_are_told_of_what_is_played(begun, tmp_path):
    told, workdir = [], shutil.copytree(begun, tmp_path / "run")
    l2ljax.train(workdir=workdir, callbacks=[lambda end: told.append(end.epoch)], **SMALL, **WAYS)
    assert told == [2, 3]  # epoch 2 was not saved when it was told


def test_a_loaded_run_has_its_classifier_its_attacker_and_its_story(by_command):
    run = l2ljax.load(by_command, which="best_ema")
    x, y = digits(64)
    assert run.classifier(x).shape == (64, 10) and run.which == "best_ema"
    assert not np.array_equal(run.classifier(x), run.at("last").classifier(x))
    assert [line["epoch"] for line in run.history if "val/clean" in line] == [1, 2, 3]
    assert (
        run.config["method"] == "grad_l2l"
        and run.step == run.game.steps_per_epoch * run.notes["best"]["best_ema"]["epoch"]
    )
    x_adv = run.attacker(jax.random.key(0), run.classifier, x, y, eps=0.1)
    assert float(jnp.abs(x_adv - x).max()) <= 0.1 + 1e-6
    assert l2ljax.losses.cross_entropy(run.classifier(x_adv), y).mean() > (
        l2ljax.losses.cross_entropy(run.classifier(x), y).mean()
    )
    for wrong, words in (("bset", "unknown which 'bset'.*'best'"), ("best", "is no run")):
        with pytest.raises(InputError, match=words):
            l2ljax.load(by_command if wrong == "bset" else by_command.parent, wrong)


def digits(n):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return jnp.asarray(x[:n].reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(y[:n])


def test_a_call_leaves_no_trace_but_its_folder(tmp_path, capfd):
    before = dict(jax.config.values), signal.getsignal(signal.SIGINT), list(logging.root.filters)
    absl = logging.getLogger("absl")
    filters, handlers = list(absl.filters), list(absl.handlers)
    few = {**SMALL, "epochs": 1}
    l2ljax.train(workdir=tmp_path / "run", **few, **WAYS)
    l2ljax.load(tmp_path / "run")
    now = dict(jax.config.values), signal.getsignal(signal.SIGINT), list(logging.root.filters)
    assert before == now and (filters, handlers) == (absl.filters, absl.handlers)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Net(nn.Module):
    """A linen module with BatchNorm."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(16)(x.reshape(len(x), -1))
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)))


class NnxNet(nnx.Module):
    """A nnx model with BatchNorm and dropout."""

    def __init__(self, rngs):
        self.one = nnx.Linear(64, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.two = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.two(self.dropout(nnx.relu(self.norm(self.one(x.reshape(len(x), -1))))))


def arrays(n=96):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = 0.25 * rng.random((n, 8, 8, 1)) + 0.25 * y[:, None, None, None]
    x = x.astype(np.float32)
    return x[:64], y[:64], x[64:], y[64:]


def own_game(classifier, *, data=None, **more):
    method = l2ljax.make_method(
        "pgm",
        inner_steps=2,
        inner_step=0.05,
        attacker_start="zero",
        attack_loss="ce",
        clean_mix=True,
        label_smoothing=0.0,
    )
    players = {"tx_theta": optax.adam(1e-2), "tx_phi": optax.identity()}
    how = {"eps": 0.1, "batch_size": 16, **players, **more}
    return l2ljax.make_game(classifier, method, arrays() if data is None else data, **how)


@pytest.mark.parametrize(
    "classifier", [Net(), NnxNet(nnx.Rngs(0)), lambda key: NnxNet(nnx.Rngs(key))],
    ids=["linen", "nnx", "nnx by key"],
)  # fmt: skip
def test_ones_own_objects_are_played_in_memory(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = l2ljax.fit(own_game(classifier), epochs=20, seed=1)
    assert run.summary["test"]["last"]["clean"]["accuracy"] > 0.8
    losses = [line["theta/loss"] for line in run.history if "val/clean" in line]
    assert len(losses) == 20 and losses[-1] < losses[0]
    assert not list(tmp_path.iterdir()) and run.workdir is None


def test_a_game_in_a_folder_is_resumed_with_the_same_game(tmp_path):
    whole = l2ljax.fit(own_game(Net()), epochs=3, workdir=tmp_path / "whole")
    with pytest.raises(Stopped):
        l2ljax.fit(own_game(Net()), epochs=3, workdir=tmp_path / "a", callbacks=[stop_after(2)])
    run = l2ljax.fit(own_game(Net()), epochs=3, workdir=tmp_path / "a")
    assert run.summary["theta_sha256"] == whole.summary["theta_sha256"]
    in_memory = l2ljax.fit(own_game(Net()), epochs=3)
    assert in_memory.summary["theta_sha256"] == whole.summary["theta_sha256"]
    with pytest.raises(InputError, match="--eps: 0.1 -> 0.2"):
        l2ljax.fit(own_game(Net(), eps=0.2), epochs=3, workdir=tmp_path / "a")
    with pytest.raises(InputError, match="made by fit.*give the same game"):
        l2ljax.load(tmp_path / "a")
    assert l2ljax.load(tmp_path / "a", "last", game=own_game(Net())).step == 9


def test_what_fit_cannot_do_is_refused(tmp_path):
    for how, words in (
        ({"epochs": 0}, "epochs=0 must be a whole number above 0"),
        ({"epochs": 1, "eval_batch": 0}, "eval_batch=0 must be positive"),
        ({"epochs": 1, "log_ever": 1}, "unknown option of fit 'log_ever'.*'log_every'"),
    ):
        with pytest.raises(InputError, match=words):
            l2ljax.fit(own_game(Net()), **how)
    l2ljax.fit(own_game(Net()), epochs=1, workdir=tmp_path, final_attacks="")
    x_train, y_train, x_test, y_test = arrays()
    with pytest.raises(InputError, match="holds a run on other data.*num_classes: 3 -> 2"):
        game = own_game(
            Net(), data=(x_train, np.minimum(y_train, 1), x_test, np.minimum(y_test, 1))
        )
        l2ljax.fit(game, epochs=1, workdir=tmp_path, final_attacks="")
    with pytest.raises(InputError, match="holds a run on other data.*sha256 of y_test: [0-9a-f]+"):
        game = own_game(Net(), data=(x_train, y_train, x_test, np.roll(y_test, 1)))
        l2ljax.fit(game, epochs=1, workdir=tmp_path, final_attacks="")


def test_in_memory_ctrl_c_is_pythons_own(request):
    # A shell starts what runs in its background with SIGINT ignored.
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, was))
    with pytest.raises(KeyboardInterrupt):
        interrupt = [lambda end: signal.raise_signal(signal.SIGINT)]
        l2ljax.fit(own_game(Net()), epochs=2, callbacks=interrupt)


def test_an_augmentation_of_ones_own_is_played(tmp_path):
    x_train, y_train, x_test, y_test = arrays()
    data = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    flipped = own_game(Net(), data=data | {"augment": lambda key, image: 1.0 - image})
    plain = own_game(Net(), data=data)
    found = [
        l2ljax.fit(game, epochs=1, workdir=tmp_path / name, final_attacks="")
        for name, game in (("flipped", flipped), ("plain", plain))
    ]
    one, two = (run.summary["theta_sha256"] for run in found)
    assert one != two


def test_fit_works_off_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(l2ljax.fit(own_game(Net()), epochs=1)))
    thread.start()
    thread.join()
    assert found[0].step == found[0].game.steps_per_epoch


def test_several_seeds_are_one_vmap():
    game = own_game(Net())
    x, y = (jnp.asarray(a) for a in (game.data.x_train, game.data.y_train))
    order, first = jnp.arange(len(x)), jnp.int32(0)

    def steps(state, key):
        for _ in range(3):
            state, metrics = game.train_step(state, x, y, order, first, key)
        return metrics["theta/loss"]

    seeds = [0, 1]
    states = [game.init(seed) for seed in seeds]
    keys = [jax.random.key(seed) for seed in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together = jax.jit(jax.vmap(steps))(stacked, jnp.stack(keys))
    alone = [jax.jit(steps)(state, key) for state, key in zip(states, keys, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_without_jit_a_run_can_be_stepped_through(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import l2ljax\nfrom test_api import Net, own_game\n"
        "run = l2ljax.fit(own_game(Net(), batch_size=32), epochs=1, final_attacks='', diagnose=0)\n"
        "print('steps', run.step)"
    )
    env = environment() | {"JAX_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "steps" in done.stdout, done.stderr


def test_public_names_mean_the_same_after_every_module_is_imported():
    before = {name: getattr(l2ljax, name) for name in l2ljax.__all__}
    for module in pkgutil.walk_packages(l2ljax.__path__, "l2ljax."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    assert before == {name: getattr(l2ljax, name) for name in l2ljax.__all__}
    modules = {m.name for m in pkgutil.iter_modules(l2ljax.__path__)}
    functions = {name for name in l2ljax.__all__ if callable(getattr(l2ljax, name))}
    assert not modules & functions
