"""Black-box matrices: who crafted, who classifies, what counts; the table and the heat map."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import pgd
from l2ljax.attacks.cascade import Run
from l2ljax.ball import scale
from l2ljax.commands import evaluate, train, transfer
from l2ljax.evaluation.results import wilson
from l2ljax.evaluation.transfer import broken_gradients, suspects, withstood
from l2ljax.evaluation.transfer import transfer as who_fools_whom
from l2ljax.plugins import Plugins
from l2ljax.runs.evaluation import open_classifiers, read_comparable, short_names
from l2ljax.runs.run import load_data

SMALL = ["--model=mlp", "--batch_size=128", "--epochs=2", "--theta_lr=0.05", "--diagnose=0"]
SMALL += ["--final_attacks=clean", "--noplots", "--notensorboard"]
IMAGES = 150


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, and a copy of the first under another name."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method, seed in (("plain", "plain", 0), ("fgsm", "fgsm", 1)):
        flags = [f"--method={method}", f"--seeds={seed}", f"--workdir={folder / name}"]
        assert train.main([*SMALL, *flags]) == 0
    shutil.copytree(folder / "plain", folder / "copy")
    return folder


def play(runs, out, targets, surrogates, *flags):
    """Run the script on runs named as `plain,fgsm`; the report it wrote."""
    given = [f"--output={out}", f"--num_examples={IMAGES}", *flags]
    for role, names in (("targets", targets), ("surrogates", surrogates)):
        paths = ",".join(str(runs / name) for name in names.split(",") if name)
        given += [f"--{role}={paths}"] if paths else []
    assert transfer.main(given) == 0
    return json.loads(out.with_name(f"{out.name}.json").read_text())


@pytest.fixture(scope="module")
def square(runs, tmp_path_factory):
    """Every run on every run, one attack with restarts among them."""
    out = tmp_path_factory.mktemp("out") / "square"
    attacks = "--attacks=fgsm,pgm10,pgm3x2"
    return play(runs, out, "plain,fgsm,copy", "", attacks, "--noplots"), out


def cells(report):
    return {(r["attack"], r["target"], r["surrogate"]): r for r in report["results"]}


def test_the_diagonal_is_what_evaluate_measures(runs, square, tmp_path):
    report, _ = square
    out = tmp_path / "evaluation.json"
    flags = ["--attacks=clean,fgsm,pgm10,pgm3x2", f"--num_examples={IMAGES}", f"--output={out}"]
    for name in ("plain", "fgsm"):
        assert evaluate.main([f"--workdir={runs / name}", *flags]) == 0
        results = json.loads(out.read_text())["results"]
        assert report["nets"][name]["right"] == results.pop("clean")["robust"]
        for attack, result in results.items():
            cell = cells(report)[attack, name, name]
            assert cell["white_box"] and cell["robust"] == result["robust"]
            assert cell["accuracy"] == result["accuracy"] and cell["eps"] == result["eps"]


def test_a_surrogate_of_the_same_weights_is_white_box_whatever_its_folder(square):
    found = cells(square[0])
    for attack in ("fgsm", "pgm10", "pgm3x2"):
        for target, surrogate in (("plain", "copy"), ("copy", "plain")):
            cell, own = found[attack, target, surrogate], found[attack, "plain", "plain"]
            assert cell["white_box"] and cell["robust"] == own["robust"]
        assert not found[attack, "plain", "fgsm"]["white_box"]


def test_a_cell_holds_what_the_target_says_of_the_surrogates_images(runs, square):
    workdirs = short_names([str(runs / "plain"), str(runs / "fgsm")])
    configs, eps = read_comparable(workdirs, eps=None, split="test", plugins=Plugins())
    nets = open_classifiers(workdirs, which="best", plugins=Plugins())
    data = load_data(configs["plain"], None)
    x, y = scale(jnp.asarray(data.x_test[:IMAGES])), jnp.asarray(data.y_test[:IMAGES])
    how = {"eps": float(eps), "steps": 10, "step_size": float(eps) / 3, "start": "zero"}
    crafted = pgd(jax.random.key(0), nets["plain"].f, x, y, loss="ce", **how)
    right = np.asarray(nets["fgsm"].f(crafted).argmax(-1) == y)
    clean = np.asarray(nets["fgsm"].f(x).argmax(-1) == y)
    assert not bool((nets["plain"].f(x).argmax(-1) == y).all()), "a surrogate that errs is meant"
    cell = cells(square[0])["pgm10", "fgsm", "plain"]
    assert cell["right_attacked"] == bits(right) and cell["accuracy_attacked"] == right.mean()
    assert cell["robust"] == bits(right & clean)
    assert cell["accuracy"] == pytest.approx((right & clean).mean())


def bits(flags):
    return "".join("1" if flag else "0" for flag in flags)


def test_no_batch_size_changes_an_image(runs, square, tmp_path):
    flags = ["--attacks=pgm3x2", "--batch_size=64", "--noplots"]
    found = cells(play(runs, tmp_path / "out", "fgsm", "plain", *flags))
    for key in (("pgm3x2", "fgsm", "plain"), ("pgm3x2", "plain", "plain")):
        assert found[key]["robust"] == cells(square[0])[key]["robust"]


def test_the_surrogates_own_accuracy_stands_there_though_it_is_no_target(runs, tmp_path, capsys):
    flags = ["--attacks=clean,fgsm", "--noplots"]
    report = play(runs, tmp_path / "out", "fgsm", "plain", *flags)
    assert [(r["target"], r["white_box"]) for r in report["results"]] == [
        ("fgsm", False),
        ("plain", True),
    ]
    out = capsys.readouterr().out.splitlines()
    rows = [line for line in out if line.startswith(("fgsm ", "the surrogate itself"))]
    assert rows[1].endswith("*") and not rows[0].endswith("*")


def test_each_image_is_crafted_once_for_all_targets(monkeypatch):
    calls = []

    def count(rng, f, x, y, *, eps, norm):
        calls.append(len(x))
        return x

    x, y = np.zeros((10, 2, 2, 1), np.uint8), np.arange(10) % 2
    f = Partial(lambda x: x[:, 0, 0] * jnp.ones(2))
    targets = dict.fromkeys("abc", f)
    found = withstood(
        jax.random.key(0), f, targets, x, y, [Run("one", count)] * 2, eps=0.1, batch_size=4
    )
    assert calls == [4] * 6
    assert all(bits(right) == "10" * 5 for right in found.values())


def test_any_classifiers_can_be_put_side_by_side(capsys):
    def linear(w, x):
        return (x.reshape(len(x), -1) - 0.5) @ w

    x = np.asarray(jax.random.uniform(jax.random.key(0), (40, 2, 2, 1)))
    w, v = jax.random.normal(jax.random.key(1), (2, 4, 3))
    f, g, same = Partial(linear, w), Partial(linear, v), Partial(linear, w + 0)
    y = np.asarray(f(x).argmax(-1))
    found = who_fools_whom({"f": f, "g": g}, {"same": same, "g": g}, x, y, eps=0.1)
    assert capsys.readouterr() == ("", "")
    cells_ = {(c["attack"], c["target"], c["surrogate"]): c for c in found.cells}
    assert cells_["fgsm", "f", "same"]["white_box"] and cells_["fgsm", "g", "g"]["white_box"]
    assert not cells_["fgsm", "f", "g"]["white_box"]
    assert cells_["fgsm", "f", "same"]["accuracy"] < found.classifiers["f"]["accuracy"] == 1
    assert str(found).count("the surrogate itself") == 2 and "pgm10, eps = 0.1:" in str(found)
    assert json.loads(json.dumps(found.as_json()))["results"][0]["eps"] == "0.1"
    with pytest.raises(ValueError, match="'f' names one classifier"):
        who_fools_whom({"f": f}, {"f": g}, x, y, eps=0.1)


def test_images_whose_gradient_is_nan_are_counted():
    """What is crafted on such a net by gradient has not moved, and proves nothing."""
    x, y = np.zeros((5, 2, 2, 1), np.float32), np.zeros(5, int)
    x[:2] = 0.5
    f = Partial(lambda x: jnp.sqrt(x.sum((1, 2, 3)))[:, None] * jnp.array([1.0, 2.0]))
    assert broken_gradients(f, x, y, batch_size=2) == 3


@pytest.mark.parametrize(
    "moved, stands",
    [(0.1, False), (0.3, True), (jnp.nan, True), (-0.1, True)],
    ids=["lawful", "out of the ball", "not finite", "out of the box"],
)
def test_only_lawful_images_count(moved, stands):
    x, y = np.zeros((3, 2, 2, 1), np.float32), np.zeros(3, int)
    fooled = Partial(lambda x: jnp.where(x[:, 0, 0] == 0, jnp.array([1.0, 0]), jnp.array([0, 1.0])))
    run = Run("move", lambda rng, f, x, y, *, eps, norm: x + moved)
    found = withstood(jax.random.key(0), fooled, {"f": fooled}, x, y, [run], eps=0.2, batch_size=3)
    assert found["f"].tolist() == [stands] * 3


def test_logits_that_are_no_numbers_are_wrong():
    x, y = np.zeros((3, 2, 2, 1), np.float32), np.zeros(3, int)
    f = Partial(lambda x: x[:, 0, 0] * jnp.array([jnp.nan, 0]))
    run = Run("stay", lambda rng, f, x, y, *, eps, norm: x)
    found = withstood(jax.random.key(0), f, {"f": f}, x, y, [run], eps=0.2, batch_size=3)
    assert not found["f"].any()


def test_nets_of_one_architecture_share_their_program(runs):
    workdirs = short_names([str(runs / "plain"), str(runs / "fgsm")])
    read_comparable(workdirs, eps=None, split="test", plugins=Plugins())
    nets = open_classifiers(workdirs, which="last", plugins=Plugins())
    assert nets["plain"].f.func is nets["fgsm"].f.func
    assert nets["plain"].sha256 != nets["fgsm"].sha256


def test_the_page_has_every_number_with_its_interval(square):
    report, out = square
    page = out.with_name("square.md").read_text()
    for r in report["results"]:
        low, high = wilson(r["accuracy"], IMAGES)
        text = f"{100 * r['accuracy']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        assert text + " *" * r["white_box"] in page
    assert report["command"] in page and f"{IMAGES} test images" in page
    assert report["made_with"]["commit"] in page
    assert page.count("| target | clean | plain | fgsm | copy |") == 3


def test_a_net_that_others_harm_more_than_itself_is_named():
    def cell(target, surrogate, accuracy):
        whose = {"attack": "pgm10", "target": target, "surrogate": surrogate}
        return whose | {"accuracy": accuracy, "white_box": target == surrogate}

    found = [
        cell("masked", "masked", 0.8),
        cell("masked", "honest", 0.5),
        cell("honest", "masked", 0.7),
        cell("honest", "honest", 0.4),
        cell("other", "honest", 0.1),
    ]
    (line,) = suspects(found, 100)
    assert line.startswith("masked: pgm10 crafted on honest") and "30.0 points" in line
    found[1] = cell("masked", "honest", 0.78)
    assert suspects(found, 100) == []


def test_help_lists_every_flag(capsys):
    assert transfer.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{flag.name}:" in out for flag in transfer.FLAGS)


def test_two_folders_of_one_name_keep_their_paths():
    assert short_names(["a/x", "b/x", "b/y/"]) == {"a/x": "a/x", "b/x": "b/x", "y": "b/y/"}


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "--targets=WORKDIR,WORKDIR"),
        (["--targets=,"], "--targets=WORKDIR,WORKDIR"),
        (["--targets=no_such_run"], "no_such_run is no run"),
        (["--targets={runs}/plain", "--surrogates=no_such_run"], "no_such_run is no run"),
        (["--targets={runs}/plain", "--attacks=fgsn"], "did you mean 'fgsm'"),
        (["--targets={runs}/plain", "--attacks=clean"], "attacks=clean crafts nothing"),
        (["--targets={runs}/plain", "--num_examples=0"], "--num_examples=0"),
        (["--targets={runs}/plain", "--batch_size=-1"], "--batch_size=-1"),
        (["--targets={runs}/plain", "--eps=8"], "--eps=8"),
        (["--targets={runs}/plain", "--which=best_ema"], "kept no average"),
        (["--targets={runs}/plain", "--output=/proc/none/out"], "/proc/none/out cannot be"),
        (
            ["--targets={runs}/plain,{other}/cifar"],
            "different data sets (--dataset: plain digits, cifar",
        ),
        (["--targets={runs}/plain,{other}/wide"], "with --eps (--eps: plain 0.2, wide 51/128)"),
        (
            ["--targets={runs}/plain,{other}/less", "--split=val"],
            "(--val_size: plain None, less 50)",
        ),
        (["--targets={runs}/plain,{other}/wide", "--eps=0.1"], "it has no data.json"),
    ],
)
def test_bad_input_gets_one_line(flags, words, runs, tmp_path, capsys):
    config = json.loads((runs / "plain" / "config.json").read_text())
    for name, changes in (
        ("cifar", {"dataset": "cifar10"}),
        ("wide", {"eps": "51/128"}),
        ("less", {"val_size": 50}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
    out = [] if any("--output" in flag for flag in flags) else [f"--output={tmp_path / 'o' / 'p'}"]
    given = [flag.format(runs=runs, other=tmp_path) for flag in flags]
    assert transfer.main([*given, *out, "--noplots"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.fixture
def kept(monkeypatch):
    """Every heat map that is saved, to look inside."""
    pytest.importorskip("matplotlib")
    from l2ljax.figures import comparison as drawing

    figures, save = [], drawing.save
    monkeypatch.setattr(
        drawing, "save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    return figures


def test_the_heat_map_shows_each_number_and_frames_the_white_box_ones(runs, tmp_path, kept):
    from test_figures import check_layout, check_png

    report = play(runs, tmp_path / "new" / "out", "plain,fgsm", "fgsm")
    check_png(tmp_path / "new" / "out.png", least=(700, 300))
    check_layout(kept[0])
    found, nets = cells(report), report["nets"]
    for axes, attack in zip(kept[0].axes, ("fgsm", "pgm10"), strict=False):
        assert axes.get_title("left") == f"{attack}, ε = 0.2"
        wanted = []
        for target in ("plain", "fgsm"):
            wanted += [nets[target]["accuracy"], found[attack, target, "fgsm"]["accuracy"]]
        wanted.append(found[attack, "fgsm", "fgsm"]["accuracy"])
        shown = [text.get_text() for text in axes.texts[::2]]
        assert shown == [f"{100 * share:.1f}" for share in wanted]
        framed = [patch.get_linewidth() > 2 for patch in axes.patches]
        assert framed == [False, False, False, True, True]


@pytest.mark.parametrize(
    "names", [["pgm"], [f"runs/all/cifar100-two_step_l2l-{i}" for i in range(6)]]
)
def test_a_heat_map_of_any_size_fits_its_page(names, tmp_path, kept):
    from l2ljax.figures import draw_transfer
    from test_figures import check_layout, check_png

    results = [
        {"attack": attack, "eps": "8/255", "surrogate": s, "target": t, "accuracy": 0.1 * i}
        | {"white_box": s == t}
        for attack in ("fgsm", "pgm10")
        for i, s in enumerate(names)
        for t in names
    ]
    report = {"dataset": "cifar100", "images": 1, "split": "test", "results": results}
    report |= {"targets": names, "surrogates": names}
    report |= {"nets": {name: {"accuracy": 1.0} for name in names}}
    check_png(draw_transfer(tmp_path / "out.png", report), least=(700, 300))
    check_layout(kept[0])
