"""From flags to a configuration: precedence, what is refused, and what is written and compared."""

import json
import shlex
from types import SimpleNamespace

import pytest

from l2ljax.attacks import parse_all
from l2ljax.commands.flags import parse
from l2ljax.data import DATASETS
from l2ljax.errors import InputError
from l2ljax.methods import METHODS
from l2ljax.models import ATTACKERS, MODELS, make_classifier
from l2ljax.runs import config
from l2ljax.runs.config import differences, epochs, read, resolve, show
from l2ljax.runs.from_config import game_of
from l2ljax.runs.recipes import RECIPES, default_recipe
from l2ljax.runs.recipes.base import METHOD
from l2ljax.runs.run import load_data
from l2ljax.runs.settings import table

DECIDES = table()
NAMES = {flag.name for flag in DECIDES}


def given(*argv):
    return parse(DECIDES, argv)


def test_a_flag_wins_over_the_recipe_and_the_recipe_over_the_base():
    assert resolve({})["theta_wd"] == 5e-4  # quick
    assert resolve({})["theta_momentum"] == 0.9  # base
    assert resolve(given("--theta_wd=0.125", "--theta_momentum=0.5"))["theta_wd"] == 0.125
    assert resolve(given("--theta_wd=0.125", "--theta_momentum=0.5"))["theta_momentum"] == 0.5
    assert resolve(given("--recipe=l2l_code"))["theta_wd"] == 2e-4


def test_the_recipe_wins_over_the_methods_row_and_a_flag_over_both():
    pgm = {"method": "pgm", "dataset": "cifar10"}
    on_mnist = resolve({"method": "pgm", "dataset": "mnist"})
    assert on_mnist["attacker_start"] == METHOD["pgm"]["attacker_start"] == "zero"
    assert resolve(pgm)["attacker_start"] == "gaussian"
    assert resolve(pgm | {"attacker_start": "uniform"})["attacker_start"] == "uniform"
    assert resolve(pgm)["inner_steps"] == METHOD["pgm"]["inner_steps"]
    assert resolve(pgm | {"inner_steps": 3})["inner_steps"] == 3


def test_every_deciding_flag_is_there_and_nothing_else():
    assert set(resolve({"workdir": "somewhere", "seeds": "1"})) == NAMES | {"plugins"}
    assert len(NAMES) == len(DECIDES)


@pytest.mark.parametrize(
    "dataset, recipe",
    [
        ("digits", "quick"),
        ("mnist", "quick"),
        ("fashion_mnist", "quick"),
        ("cifar10", "l2l_code"),
        ("cifar100", "l2l_code"),
        ("svhn", "l2l_code"),
        ("npz:own.npz", "l2l_code"),
    ],
)
def test_the_recipe_without_a_recipe(dataset, recipe):
    assert resolve({"dataset": dataset})["recipe"] == recipe
    assert resolve({"dataset": dataset, "recipe": "quick"})["recipe"] == "quick"


def test_without_any_flag_it_is_grad_l2l_on_digits():
    assert (resolve({})["method"], resolve({})["dataset"]) == ("grad_l2l", "digits")


def test_a_fraction_keeps_its_text():
    config = resolve(given("--method=pgm", "--eps=8/255", "--inner_step=2/255"))
    assert (config["eps"], config["inner_step"]) == ("8/255", "2/255")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--method=grad_12l"], ["unknown method 'grad_12l'", "'grad_l2l'", *METHODS]),
        (["--recipe=quik"], ["'quik'", "'quick'", *RECIPES]),
        (["--attacker=slin"], ["'slin'", "'slim'", *ATTACKERS]),
        (["--eps=0"], ["--eps=0 "]),
        (["--eps=-8/255"], ["--eps=-8/255"]),
        (["--eps=1.5"], ["--eps=1.5"]),
        (["--eps=8"], ["--eps=8", "8/255"]),
        (["--eps=8/0"], ["--eps", "8/0"]),
        (["--eps=nan"], ["--eps", "nan"]),
        (["--eps_warmup=-1"], ["--eps_warmup=-1"]),
        (["--method=pgm", "--inner_step=0"], ["--inner_step=0"]),
        (["--method=pgm", "--inner_step=nan"], ["--inner_step", "nan"]),
        (["--method=pgm", "--inner_step=-1/255"], ["--inner_step=-1/255"]),
        (["--method=fast_at", "--inner_step=eps"], ["--inner_step", "'eps'", "1.25eps"]),
        (["--method=fast_at", "--inner_step=0eps"], ["--inner_step=0eps"]),
        (["--inner_step=0.1"], ["--inner_step", "grad_l2l", "pgm", "kstep_l2l"]),
        (["--bat_lambda=1"], ["--bat_lambda", "grad_l2l", "fast_bat"]),
        (["--method=fast_bat", "--bat_lambda=-1"], ["--bat_lambda=-1"]),
        (["--method=fast_bat", "--bat_step=0"], ["--bat_step=0"]),
        (["--method=fast_bat", "--bat_point=pdg"], ["'pdg'", "'pgd'"]),
        (["--method=trades", "--trades_beta=-1"], ["--trades_beta=-1"]),
        (["--method=n_fgsm", "--noise=-1"], ["--noise=-1"]),
        (["--method=grad_align", "--ga_lambda=-1"], ["--ga_lambda=-1"]),
        (["--method=grad_l2l_interp", "--interp_label=1.5"], ["--interp_label=1.5"]),
        (["--method=rnn_adv", "--rnn_hidden=0"], ["--rnn_hidden=0"]),
        (["--on_overfitting=panic"], ["--on_overfitting", "rollback"]),
        (["--theta_peak_at=2"], ["--theta_peak_at=2"]),
        (["--train_size=0"], ["--train_size=0"]),
        (["--method=pgm", "--inner_steps=0"], ["--inner_steps=0"]),
        (["--method=pgm", "--inner_steps=-3"], ["--inner_steps=-3"]),
        (["--method=plain", "--inner_steps=2"], ["--inner_steps", "plain", "pgm", "kstep_l2l"]),
        (["--inner_steps=2"], ["--inner_steps", "grad_l2l", "multistep_l2l"]),
        (["--method=fgsm", "--attacker_start=zero"], ["--attacker_start", "fgsm"]),
        (["--method=naive_l2l", "--attacker_start=gaussian"], ["--attacker_start", "naive_l2l"]),
        (["--epochs=0"], ["--epochs=0"]),
        (["--batch_size=0"], ["--batch_size=0"]),
        (["--batch_size=-1"], ["--batch_size=-1"]),
        (["--attacker_width=0"], ["--attacker_width=0"]),
        (["--attacker_width=nan"], ["--attacker_width", "nan"]),
        (["--phi_steps=0", "--order=alternating"], ["--phi_steps=0"]),
        (["--phi_steps=2"], ["--phi_steps", "--order=alternating"]),
        (["--theta_lr=0"], ["--theta_lr=0"]),
        (["--theta_lr=nan"], ["--theta_lr", "nan"]),
        (["--phi_lr=-1"], ["--phi_lr=-1"]),
        (["--remat", "--model=mlp"], ["--remat: mlp has no residual blocks"]),
        (["--theta_wd=-1"], ["--theta_wd=-1"]),
        (["--phi_clip=-1"], ["--phi_clip=-1"]),
        (["--theta_drop_factor=-1"], ["--theta_drop_factor=-1"]),
        (["--theta_momentum=1"], ["--theta_momentum=1"]),
        (["--phi_b2=1"], ["--phi_b2=1"]),
        (["--ema_decay=1"], ["--ema_decay=1"]),
        (["--dropout=-0.1"], ["--dropout=-0.1"]),
        (["--label_smoothing=1.5"], ["--label_smoothing=1.5"]),
        (["--theta_drops=3,x"], ["--theta_drops=3,x", "30,60"]),
        (["--phi_drops=nan"], ["--phi_drops=nan"]),
        (["--theta_drops=3,inf"], ["--theta_drops=3,inf"]),
        (["--theta_drops=-3"], ["--theta_drops=-3"]),
        (["--recipe=l2l_v1"], ["--init_from=runs/digits-plain-0", "--method=plain", "none"]),
        (["--recipe=l2l_v1", "--dataset=npz:a/own.npz"], ["--init_from=runs/own-plain-0"]),
    ],
)
def test_what_is_refused_in_one_line(argv, words):
    with pytest.raises(InputError) as info:
        resolve(given(*argv))
    said = str(info.value)
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    "dataset, words",
    [
        ("cifar1O", ["unknown dataset 'cifar1O'", "'cifar10'", *DATASETS, "npz:PATH"]),
        ("cifar10:x", ["unknown dataset 'cifar10:x'"]),
        ("npz", ["unknown dataset 'npz'", "npz:PATH"]),
    ],
)
def test_a_data_set_that_is_not_there_is_refused_when_it_is_read(dataset, words, tmp_path):
    with pytest.raises(InputError) as info:
        load_data(resolve({"dataset": dataset}), str(tmp_path), download=False)
    assert all(word in str(info.value) for word in words)


@pytest.mark.parametrize(
    "argv",
    [
        ["--attack_loss=kl", "--attacker_start=gaussian"],
        ["--method=fast_bat", "--attack_loss=kl"],
        ["--method=fast_at", "--inner_step=1.25eps"],
        ["--method=fast_bat", "--bat_lambda=0"],
        ["--phi_steps=2", "--order=alternating"],
        ["--phi_lr=0"],
        ["--remat"],
        ["--remat", "--model=mlp", "--method=rnn_adv"],
        ["--theta_drops="],
        ["--theta_drops=30, 60,"],
        ["--recipe=l2l_v1", "--init_from=none"],
        ["--recipe=l2l_v1", "--method=plain"],
        ["--eps=1"],
        ["--method=multistep_l2l", "--inner_steps=1"],
    ],
)
def test_what_is_allowed(argv):
    resolve(given(*argv))


def test_epochs_are_a_list_of_numbers():
    assert epochs("30,60", "--theta_drops") == [30.0, 60.0]
    assert epochs(" 2.5 ,", "--theta_drops") == [2.5]
    assert epochs("", "--theta_drops") == []


def test_a_batch_must_fit_into_the_training_split():
    data = SimpleNamespace(x_train=range(100), name="own")
    with pytest.raises(InputError, match="--batch_size=101.*own.*100 images"):
        game_of(resolve({"batch_size": 101}), data)


CONFIGURATIONS = [
    {"method": method, "dataset": dataset, "recipe": recipe}
    | ({"init_from": "none"} if RECIPES[recipe].needs_init else {})
    for method in METHODS
    for dataset in ("digits", "cifar10", "svhn", "npz:my own.npz")
    for recipe in ("quick", "l2l_v1", default_recipe(dataset, method))
]


BARE = "--method=pgm --recipe=l2l_v1 --init_from=none --theta_drops= --noclean_mix"


def test_what_is_shown_can_be_pasted_back():
    for what in CONFIGURATIONS:
        config = resolve(what)
        assert resolve(given(*shlex.split(show(config)))) == config
    bare = resolve(given(*shlex.split(BARE)))
    assert bare["theta_drops"] == "" != resolve(CONFIGURATIONS[1])["theta_drops"]
    assert resolve(given(*shlex.split(show(bare)))) == bare
    assert "None" not in show(bare)


def test_what_is_written_is_read_back_without_a_difference(tmp_path):
    for what in CONFIGURATIONS:
        config = {"seed": 0, **resolve(what)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert differences(read(tmp_path), config) == []


def test_differences_name_the_flags_with_both_values():
    old = {"seed": 0, **resolve({})}
    new = old | {"eps": "0.3", "seed": 1, "val_size": 100}
    assert differences(old, new) == [
        "--seed: 0 -> 1",
        "--val_size: None -> 100",
        "--eps: 0.2 -> 0.3",
    ]
    assert differences(old, old) == []
    assert differences({}, {"new": 1}) == ["--new: None -> 1"]
    assert differences({"gone": 1}, {}) == ["--gone: 1 -> None"]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "is no run"),
        (b"{", "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[1]", "holds no configuration"),
        (b'{"method": "plain"}', "another version.*--dataset"),
    ],
)
def test_a_folder_without_a_configuration_is_refused(content, words, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=words) as info:
        read(tmp_path)
    assert str(tmp_path) in str(info.value) and len(str(info.value).splitlines()) == 1


def test_what_a_flag_names_exists_and_what_exists_is_named():
    helps = {flag.name: flag.help for flag in DECIDES}
    assert all(method in helps["method"] for method in METHODS)
    assert all(dataset in helps["dataset"] for dataset in DATASETS)
    for name in MODELS:
        assert name in helps["model"]
        make_classifier(name.replace("wrn-D-K", "wrn-10-1"), 10)
    assert all(name in helps["attacker"] for name in ATTACKERS)
    assert all(name in helps["recipe"] for name in RECIPES)
    assert parse_all("clean") and config.show({"a": None}) == ""
