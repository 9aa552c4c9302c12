"""Recipes: dicts of known flags, whose numbers are the papers' and their code's."""

import shlex

import pytest

from l2ljax.ball import length
from l2ljax.commands.flags import parse
from l2ljax.data import DATASETS
from l2ljax.data.batches import AUGMENTS
from l2ljax.methods import METHODS
from l2ljax.models import make_attacker, make_classifier
from l2ljax.runs.config import epochs, resolve
from l2ljax.runs.recipes import (
    DERIVED,
    OF_METHOD,
    QUICK,
    RECIPES,
    Recipe,
    base,
    default_recipe,
    layers_of,
)
from l2ljax.runs.settings import METHOD_NAMES, WHAT, table
from l2ljax.settings import check_eps, fraction, settings_of, step_size

FLAGS = {flag.name: flag for flag in table()}
SETTINGS = set(FLAGS) - {flag.name for flag in WHAT}
OPTIONAL = METHOD_NAMES | {"dropout", "augment"}
"""Flags whose value may come from the method, the network or the dataset."""


def layers(recipe):
    found = RECIPES[recipe]
    parts = (found.dataset, found.method, found.dataset_method)
    return [found.all, *(flags for part in parts for flags in part.values())]


def own(function):
    return {setting.name for setting in settings_of(function)}


def of_its_kind(name, value):
    kind = FLAGS[name].kind
    if isinstance(kind, tuple):
        return value in kind
    if kind in ("fraction", "step"):
        return isinstance(value, str) and length(step_size(value), 1.0) > 0
    if kind is float:  # may be written as a fraction
        return isinstance(fraction(value), float)
    return type(value) is kind


def test_the_base_covers_every_flag_that_needs_a_value():
    assert SETTINGS - OPTIONAL <= set(base.FLAGS)


def test_every_method_has_a_value_for_each_of_its_settings():
    for method, function in METHODS.items():
        layer = base.FLAGS | base.METHOD.get(method, {})
        assert own(function) <= set(layer) | set(DERIVED), method


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_known_flags_to_values_of_their_kind(recipe):
    for flags in [base.FLAGS, *base.METHOD.values(), *layers(recipe)]:
        assert set(flags) <= SETTINGS | {"train_size", "val_size"}
        wrong = {name: value for name, value in flags.items() if not of_its_kind(name, value)}
        assert not wrong


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_speaks_of_existing_datasets_and_methods(recipe):
    found = RECIPES[recipe]
    assert set(found.dataset) <= set(DATASETS)
    assert set(found.method) <= set(METHODS)
    for dataset, method in found.dataset_method:
        assert dataset in DATASETS and method in METHODS


def test_a_method_keeps_no_setting_that_is_not_its_own():
    for method, function in METHODS.items():
        config = resolve({"method": method, "dataset": "cifar10"})
        foreign = METHOD_NAMES - own(function) - {"remat"}
        assert all(config[name] is None for name in foreign)
        assert all(config[name] is not None for name in own(function))


def test_what_the_authors_choose_by_the_radius():
    expected = {8: 0.2, 4: 0.063, 12: 0.632, 16: 2.0, 32: 2.0}
    found = {n: DERIVED["ga_lambda"](n / 255) for n in expected}
    assert found == pytest.approx(expected, abs=6e-4)
    assert DERIVED["bat_step"](8 / 255) == "5000/255"
    assert DERIVED["bat_step"](9 / 255) == DERIVED["bat_step"](16 / 255) == "2000/255"
    bat = {"method": "fast_bat", "dataset": "cifar10"}
    assert resolve(bat)["bat_step"] == "5000/255"
    assert resolve(bat | {"eps": "16/255"})["bat_step"] == "2000/255"
    assert resolve(bat | {"bat_step": "1"})["bat_step"] == "1"


def test_later_layers_win():
    recipe, sizes = Recipe("", {}), []
    assert layers_of(recipe, "cifar10", "pgm")["batch_size"] == base.FLAGS["batch_size"]
    for layer, key in (
        ("all", None),
        ("dataset", "cifar10"),
        ("method", "pgm"),
        ("dataset_method", ("cifar10", "pgm")),
    ):
        flags = {"batch_size": len(sizes)}
        recipe = recipe._replace(**{layer: flags if key is None else {key: flags}})
        sizes.append(layers_of(recipe, "cifar10", "pgm")["batch_size"])
    assert sizes == [0, 1, 2, 3]
    assert layers_of(recipe, "cifar100", "plain")["batch_size"] == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_method_on_every_dataset_has_a_game(recipe):
    for dataset in DATASETS:
        for method in METHODS:
            what = {"recipe": recipe, "dataset": dataset, "method": method, "init_from": "none"}
            config = resolve(what)
            eps = check_eps(config["eps"])
            assert (
                config["inner_step"] is None
                or length(step_size(config["inner_step"]), eps) <= 1.25 * eps
            )
            make_classifier(config["model"], 10)
            make_attacker(config["attacker"], 1, width=config["attacker_width"])
            for player in ("theta", "phi"):
                drops = epochs(config[f"{player}_drops"], "drops")
                assert (
                    not drops
                    or config[f"{player}_schedule"] != "piecewise"
                    or (max(drops) < config["epochs"])
                )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_opens_with_commands_that_run_and_an_expected_result(recipe):
    about = RECIPES[recipe].about.replace("\\\n", " ")
    commands = [line.split(maxsplit=2)[2] for line in about.splitlines() if "train.py" in line]
    assert commands and "Expected" in about or recipe == "quick"
    for command in commands:
        config = resolve(parse(table(), shlex.split(command)))
        assert config["recipe"] == recipe


def values(recipe, dataset, method, *names):
    flags = layers_of(RECIPES[recipe], dataset, method)
    return tuple(flags.get(name) for name in names)


PLAYER = ("opt", "lr", "schedule", "drops", "drop_factor", "momentum", "wd")


@pytest.mark.parametrize(
    "recipe, dataset, method, player, expected",
    [
        ("l2l_v1", "cifar10", "grad_l2l", "theta", ("sgd", 0.1, "piecewise", "30", 0.1, 0.9, 1e-4)),
        ("l2l_v1", "cifar100", "grad_l2l", "phi", ("sgd", 0.1, "piecewise", "30", 0.1, 0.9, 1e-4)),
        ("l2l_v1", "svhn", "grad_l2l", "theta", ("adam", 2e-4, "piecewise", "30", 0.1, 0.9, 1e-4)),
        ("l2l_v1", "svhn", "grad_l2l", "phi", ("adam", 1e-3, "constant", "30", 0.1, 0.9, 1e-4)),
        (
            "l2l_v1",
            "cifar10",
            "plain",
            "theta",
            ("nesterov", 0.1, "piecewise", "60,120,160", 0.2, 0.9, 5e-4),
        ),
        ("l2l_v1", "svhn", "plain", "theta", ("sgd", 0.1, "piecewise", "80,120", 0.1, 0.9, 1e-4)),
        ("l2l_v1", "cifar10", "pgm", "theta", ("sgd", 0.01, "constant", "30", 0.1, 0.9, 1e-4)),
        ("l2l_v1", "svhn", "fgsm", "theta", ("sgd", 0.01, "constant", "30", 0.1, 0.9, 1e-4)),
        (
            "l2l_code",
            "cifar10",
            "grad_l2l",
            "theta",
            ("sgd", 0.1, "piecewise", "29,59", 0.1, 0.9, 2e-4),
        ),
        ("l2l_code", "cifar10", "grad_l2l", "phi", ("adam", 1e-3, "constant", "", 0.1, 0.9, 2e-4)),
    ],
)
def test_the_two_players_move_as_the_paper_says(recipe, dataset, method, player, expected):
    assert values(recipe, dataset, method, *(f"{player}_{name}" for name in PLAYER)) == expected


@pytest.mark.parametrize(
    "recipe, dataset, method, expected",
    [
        ("l2l_v1", "cifar10", "grad_l2l", ("wrn-34-4", "0.03", "0.01", 40, "simultaneous")),
        ("l2l_v1", "svhn", "pgm", ("wrn-34-4", "0.05", "0.01", 40, "simultaneous")),
        ("l2l_v1", "cifar10", "plain", ("wrn-34-4", "0.03", "0.01", 200, "simultaneous")),
        ("l2l_v1", "svhn", "plain", ("wrn-34-4", "0.05", "0.01", 160, "simultaneous")),
        ("l2l_code", "cifar10", "grad_l2l", ("wrn-34-10", "0.031", "0.003", 76, "alternating")),
        ("l2l_code", "cifar10", "kstep_l2l", ("wrn-34-10", "0.031", "0.007", 76, "alternating")),
    ],
)
def test_the_game_is_the_papers(recipe, dataset, method, expected):
    names = ("model", "eps", "inner_step", "epochs", "order")
    assert values(recipe, dataset, method, *names) == expected
    assert values(recipe, dataset, method, "batch_size", "attacker_width") == (128, 1.0)


def test_svhns_adam_has_the_papers_second_beta():
    names = ("theta_b2", "phi_b2")
    assert values("l2l_v1", "svhn", "grad_l2l", *names) == (0.99, 0.99)
    assert values("l2l_v1", "cifar10", "grad_l2l", *names) == (0.999, 0.999)


def test_the_codes_batchnorm_modes_and_start():
    assert values("l2l_code", "cifar10", "grad_l2l", "craft_bn") == ("update",)
    names = ("craft_bn", "attacker_start")
    assert values("l2l_code", "cifar10", "pgm", *names) == ("eval", "gaussian")


def test_only_photographs_are_flipped():
    """A mirrored digit is another sign: only CIFAR is flipped, by recipes and by the data table."""
    for recipe in RECIPES:
        for dataset in DATASETS:
            for method in METHODS:
                name = layers_of(RECIPES[recipe], dataset, method).get(
                    "augment", DATASETS[dataset].augment
                )
                flips = AUGMENTS[name] is not None and AUGMENTS[name].flip
                assert flips == dataset.startswith("cifar"), (recipe, dataset, method)


def test_the_default_recipe_is_one_and_starts_from_nothing():
    assert set(QUICK) <= set(DATASETS) and set(OF_METHOD) <= set(METHODS)
    for dataset in [*DATASETS, "npz:own.npz"]:
        for method in METHODS:
            assert not RECIPES[default_recipe(dataset, method)].needs_init


GRADALIGN = "preact_resnet18_gradalign"
"""Its authors' net is the only one without BatchNorm and ReLU after the last block."""


@pytest.mark.parametrize(
    "recipe, method, expected",
    [
        ("fast_at", "fast_at", ("preact_resnet18", "8/255", 15, 0.2, 0.5, 5e-4, "1.25eps")),
        ("grad_align", "fast_at", (GRADALIGN, "8/255", 30, 0.2, 0.4, 5e-4, "1.25eps")),
        ("grad_align", "pgd10", (GRADALIGN, "8/255", 30, 0.2, 0.4, 5e-4, "0.2eps")),
        ("fast_bat", "pgd2", ("preact_resnet18", "8/255", 20, 0.2, 0.5, 5e-4, "0.5eps")),
        ("fast_bat", "pgd10", ("preact_resnet18", "8/255", 200, 0.1, 0.5, 5e-4, "0.25eps")),
        ("fastat_benchmark", "n_fgsm", ("resnet18", "8/255", 100, 0.1, 0.3, 5e-4, "1eps")),
        ("trades", "trades", ("wrn-34-10", "0.031", 76, 0.1, 0.5, 2e-4, "0.007")),
    ],
)
def test_the_rivals_train_as_papers_md_4_says(recipe, method, expected):
    names = ("model", "eps", "epochs", "theta_lr", "theta_peak_at", "theta_wd", "inner_step")
    assert values(recipe, "cifar10", method, *names) == expected


def test_what_the_kl_methods_start_from():
    for method in ("trades", "rnn_trades"):
        names = ("attack_loss", "attacker_start", "trades_beta", "craft_bn")
        assert values("trades", "cifar10", method, *names) == ("kl", "gaussian", 6.0, "eval")
