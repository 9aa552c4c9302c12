"""Nothing that cannot be right gets through: every attack and every evaluation says so in a line.

An attack cannot move an image that is not lawful to begin with, so each of these would otherwise
count as robust.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from games import method_of
from l2ljax import attacks
from l2ljax.attacks import autoattack, parse
from l2ljax.attacks.cascade import Run, cascade
from l2ljax.attacks.learned import gradient_scale
from l2ljax.ball import scale
from l2ljax.evaluation.accuracy import evaluate, robust
from l2ljax.evaluation.results import trace_curves
from l2ljax.evaluation.transfer import transfer, withstood
from l2ljax.masking import make_subject, train_response

KEY = jax.random.key(3)
EPS = 0.05
BALL = {"eps": EPS, "norm": "linf"}
CE = {"steps": 3, "step_size": 0.02, "start": "zero", "loss": "ce"}


def logits(w, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ w)


W = jax.random.normal(jax.random.key(0), (16, 5))
F = Partial(logits, W)
X = np.array(jax.random.uniform(jax.random.key(1), (6, 4, 4, 1)))
Y = np.array(F(X).argmax(-1))
SOLVER = method_of("fgsm").solver


def learned(rng, f, x, y, **how):
    return attacks.learned_attack(rng, f, x, y, solver=SOLVER, phi={}, phi_stats={}, **how)


ALONE = {
    "pgd": (attacks.pgd, CE),
    "fgsm": (attacks.fgsm, {}),
    "apgd": (attacks.apgd, {"steps": 3, "loss": "ce"}),
    "apgd_targeted": (attacks.apgd_targeted, {"steps": 3, "rank": 2}),
    "fab_targeted": (attacks.fab_targeted, {"steps": 3, "rank": 2}),
    "square": (attacks.square, {"queries": 3}),
    "cw_margin": (attacks.cw_margin, {"steps": 3, "step_size": 0.02, "start": "zero"}),
    "cw_strict": (attacks.cw_strict, {"steps": 3}),
    "learned": (learned, {}),
}
"""Every attack, called alone."""


def alone(name, f=F, x=X, y=Y, **changes):
    attack, how = ALONE[name]
    return attack(KEY, f, x, y, **{"eps": EPS, **how, **changes})


def respond_to(f, x, y, *, eps, batch_size):
    how = {"phi": {}, "phi_stats": {}, "loss": "ce", "tx": optax.sgd(0.1), "epochs": 1}
    return train_response(KEY, f, x, y, solver=SOLVER, eps=eps, batch_size=batch_size, **how)


FGSM = Run("fgsm", attacks.fgsm)
SETS = {
    "robust": lambda f, x, y, **how: robust(KEY, f, x, y, parse("fgsm"), **how),
    "evaluate": lambda f, x, y, **how: evaluate(f, x, y, attacks="clean", **how),
    "cascade": lambda f, x, y, **how: cascade(KEY, f, x, y, [FGSM], norm="linf", **how),
    "autoattack": lambda f, x, y, **how: autoattack(KEY, f, x, y, version="quick", **how),
    "curves": lambda f, x, y, **how: trace_curves(KEY, f, x, y, **how),
    "transfer": lambda f, x, y, **how: transfer({"f": f}, {"f": f}, x, y, **how),
    "withstood": lambda f, x, y, **how: withstood(KEY, f, {"f": f}, x, y, [FGSM], **how),
    "subject": lambda f, x, y, **how: make_subject(KEY, f, x, y, **how),
    "respond": respond_to,
}
"""Everything that takes a whole set."""


def enter(entrance, f=F, x=X, y=Y, eps=EPS):
    if entrance in ALONE:
        return alone(entrance, f, x, y, eps=eps)
    return SETS[entrance](f, x, y, eps=eps, batch_size=4)


NCHW = np.zeros((6, 3, 8, 8), np.float32)
BAD = [
    ({"x": (X - 0.5) / 0.2}, "must lie in .0, 1.: give plain pixels, and subtract mean"),
    ({"x": 255 * X}, "divide by 255, or pass uint8"),
    ({"x": (255 * X).astype(np.int32)}, "x is int32: pass uint8 pixels"),
    ({"x": np.where(X == X[2, 1, 1, 0], np.nan, X)}, "x holds NaN"),
    ({"x": X[0]}, r"add the batch axis, x\[None\]"),
    ({"x": X[:0], "y": Y[:0]}, "x holds no pixel"),
    ({"x": [[1.0]]}, "x is a list: pass a NumPy or JAX array"),
    ({"y": np.eye(5)[Y]}, "as one-hot labels have: pass class indices"),
    ({"y": Y.astype(np.float32)}, "y is float32: class indices are whole numbers"),
    ({"y": np.arange(6) % 5 + 1}, "the classifier has 5 classes: classes count from 0"),
    ({"y": Y[:5]}, "y must be 6 class indices"),
    ({"eps": "8/255"}, "eps='8/255' is text"),
    ({"eps": 8}, "so 8 means 8 / 255"),
    ({"eps": -0.1}, "eps=-0.1 must be a number above 0"),
    ({"eps": np.nan}, "eps=nan must be a number above 0"),
    ({"f": lambda x: (logits(W, x), x)}, "returns a tuple: give a function"),
    ({"f": lambda x: {"logits": logits(W, x)}}, "returns a dict: give a function"),
    ({"f": lambda x: logits(W, x).astype(jnp.bfloat16)}, "returns bfloat16 logits"),
    ({"f": lambda x: logits(W, x).argmax(-1)}, r"must return logits \[N, K\]"),
    ({"f": lambda x: logits(W, x)[:, :1]}, "one number an image"),
    ({"f": None}, "f is a NoneType: give a function"),
    ({"f": lambda x: logits(W[:9], x)}, "NHWC, and of the size that it was made for"),
    ({"f": lambda x: logits(W, x[..., :1]), "x": NCHW}, r"\[., 3, 8, 8\], float32: they look like"),
]


@pytest.mark.parametrize("entrance", [*ALONE, *SETS])
def test_what_cannot_be_right_is_one_line_at_every_entrance(entrance):
    for wrong, words in BAD:
        with pytest.raises(ValueError, match=words) as info:
            enter(entrance, **wrong)
        assert len(str(info.value).splitlines()) == 1, words


@pytest.mark.parametrize(
    "name, wrong, words",
    [
        *(
            (name, {"steps": steps}, f"steps={steps} must be a whole number above 0")
            for name, (_, how) in ALONE.items()
            if "steps" in how
            for steps in (0, -1, 1.5)
        ),
        *(
            (name, {"step_size": size}, f"step_size={size} must be a number above 0")
            for name in ("pgd", "cw_margin")
            for size in (0, -0.1, np.nan)
        ),
        ("square", {"queries": 0}, "queries=0 must be a whole number above 0"),
        ("apgd", {"eot": -1}, "eot=-1 must be a whole number above 0"),
        ("learned", {"scale": -1.0}, "scale=-1.0 must be a number above 0"),
        ("pgd", {"start": "zeros"}, "unknown start 'zeros': did you mean 'zero'"),
        ("pgd", {"loss": "xent"}, "unknown loss 'xent'"),
        ("cw_margin", {"norm": "linff"}, "unknown norm 'linff': did you mean 'linf'"),
        ("pgd", {"start": X[:2]}, "start is a perturbation of x"),
        ("square", {"start": X.astype(np.uint8)}, "start is uint8"),
        ("fab_targeted", {"start": np.full_like(X, np.nan)}, "start holds NaN"),
        ("apgd", {"start": np.full_like(X, np.nan)}, "start holds NaN"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(name, wrong, words):
    with pytest.raises(ValueError, match=words) as info:
        alone(name, **wrong)
    assert len(str(info.value).splitlines()) == 1


def test_only_fab_may_look_for_the_nearest_image_without_a_radius():
    assert np.isfinite(alone("fab_targeted", eps=np.inf)).all()
    with pytest.raises(ValueError, match="eps=inf"):
        alone("apgd", eps=np.inf)


@pytest.mark.parametrize("name", ALONE)
def test_an_attack_alone_takes_bytes_as_pixels(name):
    x = (255 * X).round().astype(np.uint8)
    y = np.asarray(F(scale(jnp.asarray(x))).argmax(-1))
    out = alone(name, x=x, y=y)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, alone(name, x=x * np.float32(1 / 255), y=y))


def test_bytes_may_begin_at_a_perturbation_of_floats():
    x = (255 * X).round().astype(np.uint8)
    start = np.full(X.shape, 0.01)
    out = alone("pgd", x=x, start=start)
    np.testing.assert_array_equal(out, alone("pgd", x=x * np.float32(1 / 255), start=start))


@pytest.mark.parametrize("name", ALONE)
def test_attacks_work_inside_a_callers_own_jit_and_vmap(name):
    expected = alone(name)
    inside = jax.jit(lambda w, x, y, eps: alone(name, Partial(logits, w), x, y, eps=eps))
    np.testing.assert_allclose(inside(W, X, Y, EPS), expected, atol=1e-6)
    over_nets = jax.vmap(lambda w: alone(name, lambda x: logits(w, x)))
    np.testing.assert_allclose(over_nets(jnp.stack([W, -W]))[0], expected, atol=1e-6)


def test_inside_a_jit_what_can_be_seen_is_checked():
    bad = [
        (X[0], Y, "add the batch axis"),
        (X.astype(np.int32), Y, "x is int32"),
        (X, Y[:5], "y must be 6 class indices"),
        (X, np.eye(5)[Y], "one-hot"),
    ]
    for x, y, words in bad:
        with pytest.raises(ValueError, match=words):
            jax.jit(lambda x, y: alone("pgd", x=x, y=y))(x, y)
    with pytest.raises(ValueError, match="divide by 255"):
        jax.jit(lambda w: alone("pgd", Partial(logits, w), x=255 * X))(W)


def test_a_flax_net_given_other_images_says_which_and_what_was_expected():
    from games import small_net
    from l2ljax.evaluation.accuracy import freeze

    f, theta, stats = small_net()
    f, x = freeze(f)(theta, stats), np.zeros((6, 1, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"on images \[6, 1, 8, 8\], float32: they look like NCHW"):
        attacks.fgsm(KEY, f, x, Y, eps=EPS)


def test_a_mistake_inside_the_classifier_is_not_mistaken_for_one_of_shapes():
    def on_numpy(x):
        return np.asarray(x)

    with pytest.raises(ValueError, match="write it in jax.numpy") as info:
        alone("pgd", on_numpy)
    assert isinstance(info.value.__cause__, jax.errors.TracerArrayConversionError)


def test_the_scale_of_a_learned_attack_checks_its_images():
    with pytest.raises(ValueError, match="divide by 255"):
        gradient_scale(F, 255 * X, Y)
    with pytest.raises(ValueError, match="5 classes"):
        gradient_scale(F, X, Y + 5)


def test_an_untrained_net_on_normalised_pixels_is_not_robust():
    """No image that starts outside the box could be moved lawfully, so none would fall."""
    x = (X - X.mean()) / X.std()
    y = np.asarray(F(x).argmax(-1))
    with pytest.raises(ValueError, match="must lie in"):
        robust(KEY, F, x, y, parse("pgm10"), eps=EPS, batch_size=4)


def test_the_cascade_looks_at_its_set_once_and_its_attacks_do_not(monkeypatch):
    from l2ljax import gate

    looks = []
    monkeypatch.setattr(gate, "_range", lambda x: looks.append(x.shape) or (0.0, 1.0))
    cascade(KEY, F, X, Y, [FGSM, FGSM], batch_size=2, **BALL)
    assert looks == [X.shape, Y.shape]
    alone("fgsm")
    assert len(looks) > 2
