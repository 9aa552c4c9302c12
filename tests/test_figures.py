"""The pictures are real PNGs of a readable size, and nothing on them overlaps or is cut off."""

import importlib
import json
import math

import numpy as np
import pytest

from l2ljax.runs.config import resolve

pytest.importorskip("matplotlib")

CONFIG = resolve({"method": "grad_l2l"}) | {"model": "wrn-10-2", "eps": "0.2", "seed": 0}
DIAGNOSTICS = ("adequacy", "mean_abs_delta", "at_bound", "cosine_pgm10")
DIAGNOSTICS += ("sign_agreement", "saturation")
LONG = ("aquarium_fish", "pickup_truck", "sweet_pepper", "automobile", "cat")


def epoch(i, *, phi=True, ema=True, **changes):
    """The line that closes epoch i, as a run writes it."""
    line = {"step": 8 * i, "epoch": i, "theta/loss": 2 / i, "theta/grad_norm": 0.5, "theta/lr": 0.1}
    line |= {"theta/clean_accuracy": 1 - 0.5 / i, "theta/robust_accuracy": 0.5 - 0.3 / i}
    line |= {"val/clean": 0.9 - 0.5 / i, "val/robust": 0.4 - 0.3 / i}
    line |= {"seconds/train": 2.0 * i, "seconds/validation": 1.0}
    if phi:
        line |= {"phi/loss": 2.1 / i, "phi/grad_norm": 0.05, "phi/lr": 1e-3}
        line |= {f"attacker/{name}": 0.1 + 0.8 / i for name in DIAGNOSTICS}
    if ema:
        line |= {"val/clean_ema": 0.8 - 0.5 / i, "val/robust_ema": 0.5 - 0.4 / i}
    return line | changes


def between(step, **changes):
    """A line within an epoch."""
    values = {"theta/loss": 1.0, "theta/grad_norm": 0.4, "theta/lr": 0.0, "phi/loss": 1.1}
    return {"step": step, "epoch": step / 8, **values, **changes}


RUNS = {
    "learned, with EMA": [between(4), epoch(1), between(12), epoch(2), epoch(3)],
    "plain, without EMA": [epoch(i, phi=False, ema=False) for i in (1, 2, 3)],
    "one epoch": [epoch(1)],
    "no epoch yet": [between(4)],
    "nothing yet": [],
    "gaps": [
        epoch(1, **{"val/robust": None, "attacker/adequacy": math.nan, "theta/lr": 0.0}),
        between(12, **{"theta/loss": None, "theta/grad_norm": 0.0}),
        epoch(2, **{"theta/loss": math.inf, "attacker/adequacy": 40.0}),
        epoch(3, **{"attacker/adequacy": -7.0, "phi/grad_norm": 0.0}),
    ],
    "all missing": [epoch(1, **{name: math.nan for name in epoch(1) if "/" in name})],
}


@pytest.fixture
def kept(monkeypatch):
    """Every figure that is saved, to look inside."""
    figures = []
    for name in ("run", "style", "comparison"):
        module = importlib.import_module(f"l2ljax.figures.{name}")

        def save(figure, path, save=module.save):
            figures.append(figure)
            return save(figure, path)

        monkeypatch.setattr(module, "save", save)
    return figures


def write_run(workdir, lines, **changes):
    """The two files that draw_run reads."""
    (workdir / "config.json").write_text(json.dumps(CONFIG | changes))
    text = json.dumps(lines)
    null = text.replace("NaN", "null").replace("Infinity", "null")
    rows = "".join(json.dumps(line) + "\n" for line in json.loads(null))
    (workdir / "metrics.jsonl").write_text(rows)
    return workdir


def check_png(path, least=(700, 500)):
    """Decoded, big enough to read, and not blank."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    height, width = pixels.shape[:2]
    assert width >= least[0] and height >= least[1] and max(width, height) < 4000
    assert pixels[..., :3].std() > 0.01


def boxes(figure):
    """The extent in pixels of every text that is placed on the page itself."""
    return {text: text.get_window_extent() for text in figure.texts}


def check_layout(figure):
    """Nothing leaves the page, and no panel reaches into another, titles and legends included."""
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 > -0.01 and drawn.y0 > -0.01, drawn
    assert drawn.x1 < page.x1 + 0.01 and drawn.y1 < page.y1 + 0.01, (drawn, page)
    panels = [axes.get_tightbbox() for axes in figure.axes]
    for i, panel in enumerate(panels):
        assert not any(panel.overlaps(other) for other in panels[:i])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_drawn_whatever_its_metrics_hold(name, tmp_path, kept):
    from l2ljax.figures import draw_run

    drawn = draw_run(write_run(tmp_path, RUNS[name]))
    learns = any("attacker/adequacy" in line for line in RUNS[name])
    assert [path.name for path in drawn] == ["curves.png"] + ["attacker.png"] * learns
    for path, figure in zip(drawn, kept, strict=True):
        check_png(path)
        check_layout(figure)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_name_the_run_and_mark_the_best_epochs(tmp_path, kept):
    from l2ljax.figures import draw_run

    lines = [epoch(1), epoch(2, **{"val/robust": 0.45}), epoch(3)]
    draw_run(write_run(tmp_path, lines, dataset="cifar10", eps="8/255", seed=7))
    title = kept[0].get_suptitle()
    assert all(word in title for word in ("grad_l2l", "cifar10", "wrn-10-2", "8/255", "seed 7"))
    accuracy, loss, *_ = kept[0].axes
    assert "best: 45.0 %, epoch 2" in legend(accuracy)
    assert "best EMA: 36.7 %, epoch 3" in legend(accuracy)
    assert loss.get_title("left") == "Training loss"


def test_an_epoch_that_overfitted_is_marked_where_it_was(tmp_path, kept):
    """Its own line is gone where the run was taken back: the epoch before tells of it."""
    from l2ljax.figures import draw_run

    seen = {"epoch": 3, "robust": 0.05, "fgsm": 0.8, "peak": 0.3}
    event = {f"overfitting/{name}": value for name, value in seen.items()}
    draw_run(write_run(tmp_path, [epoch(1), epoch(2, **event), epoch(3)]))
    accuracy = kept[0].axes[0]
    assert "overfitted: 5 % robust" in legend(accuracy)
    (cross,) = [c for c in accuracy.collections if c.get_label().startswith("overfitted")]
    np.testing.assert_allclose(cross.get_offsets(), [[3, 0.05]])


def test_a_plain_run_has_one_player_and_no_average(tmp_path, kept):
    from l2ljax.figures import draw_run

    draw_run(write_run(tmp_path, RUNS["plain, without EMA"]))
    accuracy, *_, norms = kept[0].axes
    assert not any("EMA" in word for word in legend(accuracy))
    assert legend(norms) == ["classifier θ"]


def test_one_loss_of_both_players_is_called_one(tmp_path, kept):
    from l2ljax.figures import draw_run

    draw_run(write_run(tmp_path, [epoch(i, **{"phi/loss": 2 / i}) for i in (1, 2)]))
    assert "the same for both players" in kept[0].axes[1].get_title("left")


def test_epoch_means_and_single_steps_are_different_curves(tmp_path, kept):
    from l2ljax.figures import draw_run

    draw_run(write_run(tmp_path, RUNS["learned, with EMA"]))
    faint, mean = kept[0].axes[1].lines[:2]
    np.testing.assert_allclose(faint.get_xdata(), [0.5, 1.5])
    np.testing.assert_allclose(mean.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(mean.get_ydata(), [2, 1, 2 / 3])


def images(n, size, channels):
    rng = np.random.default_rng(0)
    x = rng.random((n, size, size, channels))
    rows = {name: 0.1 * rng.uniform(-1, 1, x.shape) for name in ("FGSM", "grad_l2l attacker")}
    y = np.arange(n) % len(LONG)
    predictions = {"clean": y, "FGSM": (y + 1) % len(LONG), "grad_l2l attacker": y}
    return x, rows, y, predictions


@pytest.mark.parametrize(("n", "size", "channels"), [(10, 8, 1), (10, 32, 3), (1, 32, 3)])
def test_sheet_of_perturbations_fits_its_page_and_its_columns(tmp_path, kept, n, size, channels):
    from l2ljax.figures import draw_perturbations

    x, rows, y, predictions = images(n, size, channels)
    path = tmp_path / "pictures" / "sheet.png"
    assert draw_perturbations(path, x, rows, y, predictions, eps=0.1, class_names=LONG) == path
    check_png(path)
    check_layout(kept[0])
    assert len(kept[0].axes) == n * (1 + 2 * len(rows))
    found = [*boxes(kept[0]).items()]
    for i, (text, box) in enumerate(found):
        for other, there in found[:i]:
            assert not box.overlaps(there), (text.get_text(), other.get_text())


def test_sheet_shows_plus_eps_white_minus_eps_black_and_zero_grey(tmp_path, kept):
    from l2ljax.figures import draw_perturbations

    x = np.full((1, 2, 2, 1), 0.5)
    delta = np.array([[0.1, -0.1], [0.0, 0.3]]).reshape(1, 2, 2, 1)
    y = np.zeros(1, int)
    draw_perturbations(
        tmp_path / "sheet.png", x, {"PGM": delta}, y, {}, eps=0.1, class_names=["cat"]
    )
    clean, perturbation, attacked = (axes.images[0].get_array() for axes in kept[0].axes)
    np.testing.assert_allclose(clean, 0.5)
    np.testing.assert_allclose(perturbation, [[1, 0], [0.5, 1]])
    np.testing.assert_allclose(attacked, [[0.6, 0.4], [0.5, 0.8]])


def test_sheet_marks_right_and_wrong_by_colour_and_by_sign(tmp_path, kept):
    from l2ljax.figures import draw_perturbations

    x, rows, y, predictions = images(2, 8, 1)
    draw_perturbations(
        tmp_path / "sheet.png", x, rows, y, predictions, eps=8 / 255, class_names=LONG
    )
    words = [(text.get_text(), text.get_color()) for text in boxes(kept[0])]
    from l2ljax.figures.style import BLACK, GREEN, RED

    assert words.count((LONG[0], BLACK)) == 1
    assert words.count((LONG[0], GREEN)) == 2
    assert words.count((f"✗ {LONG[1]}", RED)) == 1
    assert any("ε = 8/255" in word for word, _ in words)


def table_of(*runs, attacks=("clean", "fgsm", "pgm10", "pgm100x5")):
    return {run: {attack: (0.5, 0.45, 0.55) for attack in attacks} for run in runs}


@pytest.mark.parametrize(
    ("curves", "table"),
    [
        ({"pgm": RUNS["learned, with EMA"], "plain": RUNS["one epoch"]}, table_of("pgm", "plain")),
        ({"gaps": RUNS["gaps"], "none": RUNS["all missing"]}, table_of("gaps")),
        ({}, table_of(*"abcdefgh")),
        ({"pgm": []}, {}),
        ({"pgm": [epoch(1)]}, {"pgm": {"clean": (1.0, 0.99, 1.0)}, "plain": {"fgsm": (0, 0, 0)}}),
    ],
    ids=["two runs", "gaps", "many bars", "empty", "different attacks"],
)
def test_comparison_is_drawn_whatever_is_missing(tmp_path, kept, curves, table):
    from l2ljax.figures import draw_comparison

    check_png(draw_comparison(tmp_path / "comparison.png", curves, table))
    check_layout(kept[0])


def test_comparison_has_one_colour_per_run_and_intervals_as_given(tmp_path, kept):
    from l2ljax.figures import draw_comparison

    curves = {run: [epoch(1), epoch(2)] for run in ("pgm", "grad_l2l")}
    table = table_of("grad_l2l", "pgm", attacks=("clean",))
    table["pgm"]["clean"] = (0.8, 0.7, 0.85)
    draw_comparison(tmp_path / "comparison.png", curves, table)
    left, right = kept[0].axes
    lines = [line.get_color() for line in left.lines]
    assert len({*lines}) == 2
    learned, pgm = right.containers[0], right.containers[2]
    assert [bar.get_facecolor() for bar in (*learned, *pgm)] == [colour(c) for c in lines[::-1]]
    (segment,) = right.containers[3].lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [0.7, 0.85])


def colour(name):
    from matplotlib.colors import to_rgba

    return to_rgba(name)


@pytest.mark.parametrize(
    ("seconds", "unit"), [(90, "seconds"), (900, "minutes"), (20_000, "hours")]
)
def test_training_time_has_a_readable_unit(tmp_path, kept, seconds, unit):
    from l2ljax.figures import draw_comparison

    lines = [epoch(i, **{"seconds/train": seconds * i / 2}) for i in (1, 2)]
    draw_comparison(tmp_path / "comparison.png", {"pgm": lines}, {})
    left = kept[0].axes[0]
    assert left.get_xlabel() == f"training time ({unit})"
    assert 3 <= left.lines[0].get_xdata()[-1] <= 180
