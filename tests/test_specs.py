"""Attacks by name: every form, every preset of the papers, and what a wrong name is told."""

import pytest

from l2ljax.attacks import Attack, parse, parse_all
from l2ljax.attacks.autoattack import Budget
from l2ljax.attacks.specs import PRESETS, OneRun, Pgm

EPS = 0.06


@pytest.mark.parametrize(
    "name, steps, step, start, loss, restarts",
    [
        ("fgsm", 1, EPS, "zero", "ce", 1),
        ("pgm1", 1, EPS / 3, "zero", "ce", 1),
        ("pgm10", 10, EPS / 3, "zero", "ce", 1),
        ("pgm11", 11, 2.5 * EPS / 11, "zero", "ce", 1),
        ("pgm100", 100, 2.5 * EPS / 100, "zero", "ce", 1),
        ("pgm10x1", 10, EPS / 3, "uniform", "ce", 1),
        ("pgm100x5", 100, 2.5 * EPS / 100, "uniform", "ce", 5),
        ("pgm10_margin", 10, EPS / 3, "zero", "margin", 1),
        ("pgm20x3_margin", 20, 2.5 * EPS / 20, "uniform", "margin", 3),
        ("pgd50_10", 50, EPS / 4, "uniform", "ce", 10),
    ],
)
def test_a_name_says_steps_size_start_loss_and_restarts(name, steps, step, start, loss, restarts):
    attack = parse(name)
    ((_, run),) = attack.parts
    assert attack.name == name
    assert (run.steps, run.start, run.loss, run.restarts) == (steps, start, loss, restarts)
    assert run.step_size(EPS) == pytest.approx(step)
    assert attack.radius(EPS) == EPS


def test_pgm10_takes_the_papers_step_at_the_papers_radius():
    assert parse("pgm10").parts[0][1].step_size(0.03) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "name, steps, eps, step, start",
    [
        ("pgm10_v1", 10, 0.03, 0.01, "zero"),
        ("pgd10_l2l", 10, 0.031, 0.003, "uniform"),
        ("pgd20_l2l", 20, 0.031, 0.003, "uniform"),
        ("pgd100_l2l", 100, 0.031, 0.003, "uniform"),
        ("pgd20_madry", 20, 8 / 255, 2 / 255, "uniform"),
    ],
)
def test_a_protocol_keeps_its_own_radius_and_step(name, steps, eps, step, start):
    attack = parse(name)
    ((_, run),) = attack.parts
    assert (run.steps, run.start, run.loss, run.restarts) == (steps, start, "ce", 1)
    assert attack.radius(EPS) == eps
    assert run.step_size(EPS) == run.step_size(eps) == step


def test_clean_is_no_run_at_radius_zero():
    assert parse("clean").parts == () and parse("clean").radius(EPS) == 0.0


def parts(name):
    return tuple(part for _, part in parse(name).parts)


def test_a_union_is_the_runs_of_its_parts():
    union = parse("fgsm+pgm10x5+pgm20_margin")
    assert union.name == "fgsm+pgm10x5+pgm20_margin"
    assert [name for name, _ in union.parts] == ["fgsm", "pgm10x5", "pgm20_margin"]
    assert parts(union.name) == parts("fgsm") + parts("pgm10x5") + parts("pgm20_margin")
    assert [run.draw for run in union.runs(10)] == [0, 0, 1, 2, 3, 4, 0]
    assert parts("clean+fgsm") == parts("fgsm")
    assert parse("clean+fgsm").radius(EPS) == EPS


def test_selection_is_the_worst_of_two_losses():
    assert parts("selection") == parts("pgm10+pgm10_margin")


@pytest.mark.parametrize(
    "name, runs",
    [
        ("autoattack", ["apgd-ce", *["apgd-t"] * 9, *["fab-t"] * 9, "square"]),
        ("autoattack_quick", ["apgd-ce", *["apgd-t"] * 9]),
        ("apgd_ce", ["apgd-ce"]),
        ("apgd-dlr+square", ["apgd-dlr", "square"]),
        ("fab-t", ["fab-t"] * 9),
        ("cw100+cw_strict", ["cw100", "cw_strict"]),
    ],
)
def test_the_cascade_has_a_run_per_target(name, runs):
    assert [run.name for run in parse(name).runs(10)] == runs


@pytest.mark.parametrize("classes, targets", [(2, 1), (3, 2), (8, 7), (10, 9), (100, 9)])
def test_there_are_no_more_targets_than_other_classes(classes, targets):
    assert len(parse("apgd-t").runs(classes)) == targets
    assert len(parse("fab-t", budget=Budget(targets=4)).runs(classes)) == min(4, targets)


def test_quick_is_a_bound_and_nothing_else_is():
    assert parse("autoattack_quick").bounds == "autoattack"
    assert {parse(name).bounds for name in ("autoattack", "pgm10", "apgd-ce")} == {None}


def test_a_learned_attacker_is_found_by_whoever_knows_workdirs():
    found = OneRun(None, 1.0)
    attack = parse(
        "learned:runs/a+pgm10", learned=lambda workdir: found._replace(cost=len(workdir))
    )
    assert [name for name, _ in attack.parts] == ["learned:runs/a", "pgm10"]
    assert attack.parts[0][1].cost == len("runs/a")
    with pytest.raises(ValueError, match="unknown attack 'learned:x'"):
        parse("learned:x")


def test_an_attack_without_an_l2_form_says_so():
    with pytest.raises(ValueError, match="'cw_strict' has no l2 form: linf"):
        parse("pgm10+cw_strict").check_norm("l2")
    for name in ("pgm10", "autoattack", "cw100", "clean"):
        parse(name).check_norm("l2")


@pytest.mark.parametrize(
    "name", [name for name in PRESETS if any(part.eps is not None for part in PRESETS[name])]
)
def test_a_protocol_that_names_its_radius_is_of_the_linf_ball_alone(name):
    """8/255 in l2 would move hardly anything, and the net would seem robust."""
    with pytest.raises(ValueError, match=f"attack '{name}' has no l2 form: linf"):
        parse(name).check_norm("l2")
    parse(name).check_norm("linf")


def test_an_unknown_norm_names_the_nearest():
    with pytest.raises(ValueError, match="unknown norm 'l_inf': did you mean 'linf'"):
        parse("pgm10").check_norm("l_inf")


def test_a_radius_of_zero_is_no_missing_radius():
    still = Pgm(1, 1.0, "zero", eps=0.0)
    assert Attack("still", (("still", still),)).radius(EPS) == 0.0


def test_a_union_of_different_radii_is_refused():
    with pytest.raises(ValueError, match="pgm10_v1.*different radii"):
        parse("pgm10+pgm10_v1")
    assert len(parse("pgd10_l2l+pgd20_l2l").parts) == 2


@pytest.mark.parametrize(
    "name, meant",
    [
        ("fgms", "fgsm"),
        ("pgm1O", "pgm10"),
        ("pgm100x", "pgm100x5"),
        ("pgd20_mardy", "pgd20_madry"),
        ("PGM10_margin", "pgm10_margin"),
    ],
)
def test_an_unknown_attack_names_the_nearest_and_lists_the_rest(name, meant):
    with pytest.raises(
        ValueError, match=f"unknown attack '{name}': did you mean '{meant}'"
    ) as info:
        parse(name)
    assert all(preset in str(info.value) for preset in PRESETS)
    assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "pgm",
        "pgm0",
        "pgm-1",
        "pgm010",
        "pgm10x0",
        "pgm10x",
        "pgm10_marginx5",
        "pgm10+",
        "+fgsm",
    ],
)
def test_what_is_no_attack_is_refused(name):
    with pytest.raises(ValueError, match="unknown attack"):
        parse(name)


def test_a_list_is_joined_by_commas_and_keeps_its_order():
    names = [attack.name for attack in parse_all("clean, pgm10 ,fgsm,")]
    assert names == ["clean", "pgm10", "fgsm"]
    for empty in ("", " , "):
        with pytest.raises(ValueError, match="no attack"):
            parse_all(empty)


def test_every_preset_can_be_asked_for_by_name():
    assert [parts(attack.name) for attack in parse_all(",".join(PRESETS))] == list(PRESETS.values())


def test_an_attack_of_ones_own_is_found_by_its_name():
    def mine(rng, f, x, y, *, eps, norm):
        return x

    extra = {"mine.py:mine": mine}
    (clean, union) = parse_all("clean,mine.py:mine+fgsm", extra=extra)
    assert [run.name for run in union.runs(10)] == ["mine.py:mine", "fgsm"]
    union.check_norm("l2")
    with pytest.raises(ValueError, match="did you mean 'mine.py:mine'"):
        parse_all("mine.py:mime", extra=extra)
    with pytest.raises(ValueError, match="'fgsm' is named twice"):
        parse_all("fgsm,clean,fgsm")
