"""What users of other robustness libraries, or of Flax, are likely to get wrong, one entry each.

Every entry is a name, a call, and what must come of it: REFUSED with one line that matches, TOLD in
one line beside a right result, or RIGHT, a value equal to that of the lawful call.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.tree_util import Partial

from l2ljax import attacks, functional, init_state, initialise, make_method, make_step
from l2ljax.attacks import autoattack, parse
from l2ljax.checkpoint import Checkpoints, restore_any
from l2ljax.commands import compare, search, train, transfer
from l2ljax.commands import evaluate as evaluate_script
from l2ljax.data import load
from l2ljax.evaluation.accuracy import evaluate, freeze, robust
from l2ljax.models import make_attacker, make_classifier
from l2ljax.schedules import learning_rate, optimiser, radius

KEY, EPS, N, K = jax.random.key(0), 0.05, 40, 5
DRAWS = np.random.default_rng(0)
X = DRAWS.random((N, 8, 8, 1)).astype(np.float32)
W = DRAWS.normal(size=(64, K)).astype(np.float32)
SHORT = attacks.Budget(apgd_steps=2, fab_steps=2, targets=2, square_queries=3, eot=2, cw_steps=2)


def logits(w, x):
    return (x.reshape(len(x), -1) - 0.5) @ w


F = Partial(logits, jnp.asarray(W))
Y = np.asarray(F(X).argmax(-1))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        h = nn.Dense(8)(x.reshape(len(x), -1))
        return nn.Dense(K)(nn.relu(nn.BatchNorm(use_running_average=not train)(h)))


class Nnx(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(64, K, rngs=nnx.Rngs(0))
        self.bn = nnx.BatchNorm(K, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.bn(self.dense(x.reshape(len(x), -1)))


class Tensor:
    """An array of another library: its dtype is none of NumPy's."""

    def __init__(self, a):
        self.shape, self.dtype = a.shape, "torch.float32"


NET = Net()
THETA, STATS = initialise(NET, KEY, X)
VARIABLES = {"params": THETA, **STATS}
SGD = optax.sgd(0.1)


def pgd(f=F, x=X, y=Y, rng=KEY, **how):
    how = {"eps": EPS, "steps": 2, "step_size": 0.02, "start": "zero", "loss": "ce"} | how
    return attacks.pgd(rng, f, x, y, **how)


def square(f=F, x=X, y=Y, rng=KEY):
    return attacks.square(rng, f, x, y, eps=EPS, queries=2)


def targeted(rank):
    return attacks.apgd_targeted(KEY, F, X, Y, eps=EPS, steps=2, rank=rank)


def said(f=F, x=X, y=Y, names="clean"):
    """The lines beside the accuracy."""
    return "\n".join(evaluate(f, x, y, eps=EPS, attacks=names, batch_size=8).results[0].warnings)


def stood(f=F, x=X, y=Y, attack="fgsm", rng=KEY, **how):
    how = {"eps": EPS, "batch_size": 8} | how
    return robust(rng, f, x, y, parse(attack), **how)


def auto(f=F, x=X, y=Y, rng=KEY, **how):
    how = {"eps": EPS, "batch_size": 8, "version": "quick", "budget": SHORT} | how
    return autoattack(rng, f, x, y, **how).accuracy


def random_by_numpy(x):
    """Its noise is drawn once, when it is compiled."""
    return logits(W, x) + 5 * np.random.default_rng().normal(size=(len(x), K)).astype(np.float32)


def branching(x):
    return logits(W, x) if x.mean() > 0.5 else -logits(W, x)


def trained_afterwards():
    """A classifier that holds its weights itself, and gets others after it was compiled."""
    held = {"w": W}

    def f(x):
        return logits(held["w"], x)

    assert said(f) == ""
    held["w"] = -W
    return said(f)


def in_training_mode(x):
    return NET.apply(VARIABLES, x, train=True, mutable=["batch_stats"])[0]


def method(**changes):
    settings = {"inner_steps": 1, "inner_step": 0.05, "attacker_start": "zero"}
    settings |= {"attack_loss": "ce", "clean_mix": False}
    return make_method("pgm", **({"label_smoothing": 0.0} | settings | changes))


def grad_l2l(attacker):
    how = {"attacker_start": "zero", "grad_norm": "batch_max", "attack_loss": "ce"}
    return make_method(
        "grad_l2l", order="simultaneous", label_smoothing=0.0, attacker=attacker, **how
    )


PLAIN = make_method("plain", label_smoothing=0.0)
F_NET = functional(NET)


def begin(theta=THETA, stats=STATS, tx=SGD, x=X, rng=KEY, played=PLAIN, **how):
    return init_state(rng, theta, stats, played, tx, tx, x, **how)


def step(batch=(X, Y), f=F_NET, tx=SGD, rng=KEY, state=None, played=PLAIN, **how):
    state = begin(played=played, tx=tx) if state is None else state
    return make_step(f, played, tx, tx, **({"eps": 0.1} | how))(state, batch, rng)


def net(name="mlp", classes=K, **how):
    return make_classifier(name, classes, **how)


def rate(kind="cosine", peak=0.1, **how):
    return learning_rate(kind, peak, **({"epochs": 2, "steps_per_epoch": 5} | how))


REFUSED = [
    # Images: what torch, foolbox or a data loader would have taken.
    ("a torch tensor", lambda: pgd(x=Tensor(X)), r"Tensor of torch.float32: pass x.numpy\(\)"),
    ("a torch tensor as labels", lambda: stood(y=Tensor(Y)), r"pass y.numpy\(\)"),
    ("a list of images", lambda: pgd(x=list(X)), "x is a list"),
    ("a masked array", lambda: pgd(x=np.ma.array(X)), r"masked array: .* x.filled\(\)"),
    ("the batch axis forgotten", lambda: pgd(x=X[0], y=Y[:1]), r"batch axis, x\[None\]"),
    ("grey images without channel", lambda: stood(x=X[..., 0]), r"channel, x\[\.\.\., None\]"),
    ("pixels from -1 to 1", lambda: stood(x=2 * X - 1), "subtract mean and divide by std inside"),
    ("pixels to 255 as floats", lambda: auto(x=255 * X), "divide by 255"),
    ("bool pixels", lambda: pgd(x=X > 0.5), "x is bool: pass uint8"),
    ("objects", lambda: pgd(x=np.array(X, object)), "x is object"),
    ("an empty batch", lambda: stood(x=X[:0], y=Y[:0]), "holds no pixel"),
    ("x and y swapped", lambda: pgd(x=Y, y=X), r"images \[N, H, W, C\]; its shape is \[40\]"),
    ("4 channels into a grey net", lambda: pgd(x=X.repeat(4, -1)), "of the size that it was made"),
    # Labels.
    ("labels as a list", lambda: pgd(y=Y.tolist()), "y is a list"),
    ("labels [N, 1]", lambda: pgd(y=Y[:, None]), r"pass class indices \[40\], y\[:, 0\]"),
    ("one-hot labels", lambda: auto(y=np.eye(K)[Y]), r"y.argmax\(-1\)"),
    ("float labels", lambda: stood(y=Y * 1.0), "y is float64: class indices are whole numbers"),
    ("bool labels", lambda: pgd(y=Y > 2), "y is bool"),
    ("labels from 1", lambda: pgd(y=Y + 1), "classes count from 0"),
    ("more labels than images", lambda: pgd(y=np.tile(Y, 2)), "y must be 40 class indices"),
    ("more classes than outputs", lambda: pgd(lambda x: F(x)[:, :2]), "classifier has 2 classes"),
    # Classifiers.
    ("a model and its weights", lambda: pgd((NET, VARIABLES)), "f is a tuple: give a function"),
    ("a linen module", lambda: pgd(NET), "module Net without its weights: give lambda"),
    ("module.apply", lambda: pgd(NET.apply), "Net.apply without its weights"),
    ("a class", lambda: pgd(Net), "f is the class Net"),
    (
        "a TrainState",
        lambda: pgd(TrainState.create(apply_fn=NET.apply, params=THETA, tx=SGD)),
        "f is a TrainState",
    ),
    (
        "an nnx model, trained on later",
        lambda: stood(Nnx()),
        "functional_nnx.model. and give freez",
    ),
    ("f(theta, stats, x, mode)", lambda: pgd(F_NET), r"f takes \(theta, stats, x, mode"),
    ("f(x, key) unannounced", lambda: pgd(lambda x, key: F(x)), r"f takes \(x, key\)"),
    ("f(x) announced as random", lambda: auto(version="rand"), "called with the images and a key"),
    ("an if on pixels", lambda: pgd(branching), "an if on values"),
    ("NumPy inside", lambda: pgd(lambda x: np.asarray(x)), "write it in jax.numpy"),
    ("a sigmoid of one output", lambda: pgd(lambda x: F(x)[:, :1]), "one number an image"),
    ("a tuple of logits and features", lambda: auto(lambda x: (F(x), x)), r"model\(x\)\[0\]"),
    ("classes instead of logits", lambda: pgd(lambda x: F(x).argmax(-1)), r"logits \[N, K\]"),
    # Settings.
    ("eps of 8", lambda: auto(eps=8), "so 8 means 8 / 255"),
    ("eps as text", lambda: stood(eps="8/255"), "is text"),
    ("eps for each image", lambda: pgd(eps=np.full(N, EPS)), "pass one radius"),
    ("no eps", lambda: pgd(eps=None), "eps=None is no number"),
    ("steps as a float", lambda: pgd(steps=10.0), "steps=10.0 must be a whole number"),
    ("a descending step", lambda: pgd(step_size=-0.01), "must be a number above 0"),
    ("rank as a float", lambda: targeted(2.0), "rank=2.0 must be a whole number"),
    ("rank None", lambda: targeted(None), "rank=None must be a whole number"),
    ("norm Linf", lambda: pgd(norm="Linf"), "did you mean 'linf'"),
    ("norm np.inf", lambda: auto(norm=np.inf), "did you mean 'linf'"),
    ("a loss function", lambda: pgd(loss=optax.losses.hinge_loss), "unknown loss"),
    ("start as x_adv of others", lambda: pgd(start=X[:3]), "start is a perturbation of x"),
    ("an integer seed", lambda: auto(rng=0), r"rng is a int and no key: pass jax.random.key\(0\)"),
    ("a NumPy generator", lambda: pgd(rng=DRAWS, start="uniform"), "rng is a Generator"),
    ("keys of other images", lambda: square(rng=jax.random.split(KEY, 3)), r"one for each image"),
    ("keys for a set", lambda: stood(rng=jax.random.split(KEY, N)), "pass one key"),
    ("a number as an attack", lambda: evaluate(F, X, Y, eps=EPS, attacks=[3]), "not 3"),
    ("a list to robust", lambda: robust(KEY, F, X, Y, [1], eps=EPS, batch_size=8), "is a list"),
    ("an attack of foolbox", lambda: parse("LinfPGD"), "unknown attack 'LinfPGD'"),
    ("version Standard", lambda: auto(version="Standard"), "did you mean 'standard'"),
    ("one attack as text", lambda: auto(attacks="apgd-ce"), "must be a list"),
    ("no attack", lambda: auto(attacks=[]), "must be a list"),
    ("no target", lambda: auto(budget=SHORT._replace(targets=0)), "targets=0 must be a whole"),
    ("a negative average", lambda: auto(budget=SHORT._replace(eot=-1)), "eot=-1 must be"),
    ("a budget as a dict", lambda: auto(budget={"targets": 2}), "budget is a dict"),
    ("batch_size as a float", lambda: stood(batch_size=8.0), "batch_size=8.0 must be a whole"),
    ("a set inside jit", lambda: jax.jit(lambda x: stood(x=x))(X), "outside jit"),
    ("weights inside jit", lambda: jax.jit(lambda w: stood(Partial(logits, w)))(W), "outside jit"),
    ("one image under vmap", lambda: jax.vmap(lambda x, y: pgd(x=x, y=y))(X, Y), "batch axis"),
    # Models as functions.
    (
        "variables as theta",
        lambda: F_NET(VARIABLES, {}, X, "eval"),
        "theta is variables.'params'.,",
    ),
    ("variables as stats", lambda: F_NET(THETA, VARIABLES, X, "eval"), "stats is the whole dict"),
    ("theta and stats swapped", lambda: F_NET(STATS, THETA, X, "eval"), "not those of this Net"),
    ("no statistics", lambda: F_NET(THETA, None, X, "eval"), "stats is a NoneType"),
    ("images first", lambda: F_NET(X, THETA, STATS, "eval"), r"call f\(theta, stats, x, mode\)"),
    ("bytes into a network", lambda: F_NET(THETA, STATS, np.uint8(255 * X), "eval"), "x is uint8"),
    ("mode True", lambda: F_NET(THETA, STATS, X, True), "unknown mode 'True'"),
    ("another width", lambda: F_NET(THETA, STATS, X[:, :4], "eval"), "not those of this Net"),
    ("a shape to initialise", lambda: initialise(NET, KEY, (1, 8, 8, 1)), "x is the shape"),
    ("a seed to initialise", lambda: initialise(NET, 0, X), "rng is a int and no key"),
    ("a class to initialise", lambda: initialise(Net, KEY, X), "pass a module, Net"),
    ("an nnx model to initialise", lambda: initialise(Nnx(), KEY, X), "there is functional_nnx"),
    # Training.
    ("Grad_L2L", lambda: make_method("Grad_L2L", label_smoothing=0.0), "'grad_l2l'"),
    ("no inner step", lambda: method(inner_steps=0), "^inner_steps=0 must be positive"),
    (
        "a backward inner step",
        lambda: method(inner_step="-1eps"),
        "^inner_step=-1eps must be positive",
    ),
    ("clean_mix no", lambda: method(clean_mix="no"), "^clean_mix: 'no' is no true or false"),
    (
        "smoothing of 1",
        lambda: method(label_smoothing=1),
        r"^label_smoothing=1 must lie in \[0, 1\)",
    ),
    ("loss CE", lambda: method(attack_loss="CE"), "did you mean 'ce'"),
    ("a method by name", lambda: begin(played="pgm"), "method is a str: pass make_method"),
    ("a schedule as optimiser", lambda: step(tx=optax.constant_schedule(0.1)), "pass an optax"),
    ("no optimiser", lambda: begin(tx=None), "tx_theta is a NoneType"),
    ("another optimiser", lambda: step(state=begin(), tx=optax.adam(0.1)), "for another tx_theta"),
    ("a module as f", lambda: step(f=NET), r"functional\(module\) makes one"),
    ("a classifier as f", lambda: step(f=F), r"functional\(module\) makes one"),
    ("batch (y, x)", lambda: step((Y, X)), r"x must be images"),
    ("batch as a dict", lambda: step({"image": X, "label": Y}), r"a batch is \(x, y\)"),
    ("batch normalised", lambda: step(((X - 0.5) / 0.2, Y)), "must lie in"),
    ("a seed to a step", lambda: step(rng=0), "rng is a int and no key"),
    ("phi_steps at once", lambda: step(phi_steps=2), "only order='alternating'"),
    ("uneven parts", lambda: step(accumulate=3), "accumulate=3 does not divide a batch of 40"),
    ("an average not begun", lambda: step(ema_decay=0.9), "belong together"),
    ("an average not moved", lambda: step(state=begin(ema=True)), "belong together"),
    ("a radius of 8, warmed up", lambda: radius(8, warmup_epochs=1, steps_per_epoch=5), "8 / 255"),
    (
        "a classifier as attacker",
        lambda: step(played=grad_l2l(NET)),
        "perturbation is of the shape .40, 5.",
    ),
    # Networks, schedules, optimisers.
    ("one class", lambda: net(classes=1), "tells two classes apart"),
    ("classes as a float", lambda: net(classes=10.0), "num_classes=10.0 must be a whole number"),
    ("mean as one number", lambda: net(mean=0.5), "one number for each channel"),
    ("mean and std of bytes", lambda: net(mean=(125.3,), std=(63.0,)), "no mean of pixels in"),
    ("a deviation of 0", lambda: net(std=(0.0,)), "must be above 0"),
    ("dropout in per cent", lambda: net("small_cnn", dropout=50), r"must lie in \[0, 1\)"),
    ("WRN-34-10", lambda: net("WRN-34-10"), "unknown model"),
    ("no channel", lambda: make_attacker("slim", 0), "channels=0 must be a whole number"),
    ("schedule Cosine", lambda: rate("Cosine"), "did you mean 'cosine'"),
    ("a rate as text", lambda: rate(peak="0.1"), "learning rate '0.1' must be a number"),
    ("no step in an epoch", lambda: rate(steps_per_epoch=0), "steps_per_epoch=0 must be a whole"),
    ("a peak after the run", lambda: rate("cyclic", peak_at=2), r"peak_at=2 .* in \(0, 1\]"),
    ("Adam", lambda: optimiser("Adam", lambda i: 0.1, weight_decay=0), "did you mean 'adam'"),
    ("a schedule by name", lambda: optimiser("sgd", "cosine", weight_decay=0), "is text: pass"),
    (
        "decay the wrong way",
        lambda: optimiser("sgd", lambda i: 0.1, weight_decay=-5e-4),
        "weight_decay=-0.0005 must not be negative",
    ),
    # Data and checkpoints.
    ("CIFAR10", lambda: load("CIFAR10"), "did you mean 'cifar10'"),
    ("a share held out", lambda: load("digits", val_size=0.1), "val_size=0.1 must be a whole"),
    ("a share kept", lambda: load("digits", train_size=0.5), "train_size=0.5 must be a whole"),
    ("a file as workdir", lambda: Checkpoints(__file__), "is a file: give the folder of a run"),
    ("kind Best", lambda: restore_any("nowhere", kind="Best"), "unknown kind 'Best'"),
]


@pytest.mark.parametrize("name, call, words", REFUSED, ids=[entry[0] for entry in REFUSED])
def test_refused_in_one_line(name, call, words):
    with pytest.raises(ValueError, match=words) as info:
        call()
    assert len(str(info.value).splitlines()) == 1


TOLD = [
    ("a softmax at the end", lambda: said(lambda x: jax.nn.softmax(F(x))), "are probabilities"),
    ("BatchNorm left training", lambda: said(in_training_mode), "depend on the images beside it"),
    ("noise of NumPy", lambda: said(random_by_numpy), "draws random numbers, or"),
    ("weights changed afterwards", trained_afterwards, "its weights have changed"),
    ("a net for pixels to 255", lambda: said(lambda x: F(x / 255 - 1)), "no better than a guess"),
    ("labels of another order", lambda: said(y=(Y + 1) % K), "are the labels the classifier's"),
    ("divided by 255 twice", lambda: said(x=X / 255), "pixels in .0, 1. what it expects"),
    ("NCHW into an mlp", lambda: said(x=X.reshape(N, 1, 8, 8)), "looks like NCHW"),
    ("half precision inside", lambda: said(lambda x: HALF(x)), "computes in bfloat16"),
    (
        "weights that are NaN",
        lambda: said(Partial(logits, W * np.nan)),
        "the logits are NaN for 40",
    ),
]


def HALF(x):
    product = x.reshape(len(x), -1).astype(jnp.bfloat16) @ jnp.asarray(W, jnp.bfloat16)
    return product.astype(jnp.float32)


@pytest.mark.parametrize("name, call, words", TOLD, ids=[entry[0] for entry in TOLD])
def test_told_in_one_line(name, call, words):
    found = [line for line in call().splitlines() if words.partition(" .")[0] in line] or call()
    assert len(found) == 1, found


def test_square_on_nchw_is_told_too():
    with pytest.warns(RuntimeWarning, match="looks like NCHW"):
        square(x=X.reshape(N, 1, 8, 8))


def swapped(a):
    return a.astype(a.dtype.newbyteorder(">"))


def apart(a):
    """The same values, not contiguous."""
    return np.ascontiguousarray(a.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)


def locked(a):
    a = a.copy()
    a.flags.writeable = False
    return a


TRUE = {"pgd": pgd, "stood": stood, "auto": auto}
RIGHT = [
    ("float64 images", "stood", lambda: stood(x=X.astype(np.float64))),
    ("big-endian images and labels", "pgd", lambda: pgd(x=swapped(X), y=swapped(Y))),
    ("a big-endian set", "stood", lambda: stood(x=swapped(X), y=swapped(Y))),
    ("a strided view", "pgd", lambda: pgd(x=apart(X))),
    ("a read-only set", "stood", lambda: stood(x=locked(X), y=locked(Y))),
    ("labels of 8 bits", "pgd", lambda: pgd(y=Y.astype(np.uint8))),
    ("labels of 64 bits", "stood", lambda: stood(y=Y.astype(np.int64))),
    ("a key of the old kind", "auto", lambda: auto(rng=jax.random.PRNGKey(0))),
    ("eps as an array of no axis", "pgd", lambda: pgd(eps=np.array(EPS))),
    ("a batch larger than the set", "stood", lambda: stood(batch_size=64)),
    ("log-probabilities for logits", "stood", lambda: stood(lambda x: jax.nn.log_softmax(F(x)))),
    ("an attack inside jit", "pgd", lambda: jax.jit(lambda x, y: pgd(x=x, y=y))(X, Y)),
    (
        "a net that donates its input",
        "auto",
        lambda: auto(jax.jit(lambda x: F(x), donate_argnums=0)),
    ),
    ("a device array", "stood", lambda: stood(x=jnp.asarray(X), y=jnp.asarray(Y))),
]


@pytest.mark.parametrize("name, kind, call", RIGHT, ids=[entry[0] for entry in RIGHT])
def test_right_all_the_same(name, kind, call):
    found, expected = call(), TRUE[kind]()
    if isinstance(found, dict):
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_image_twice_and_alone():
    twice = stood(x=np.concatenate([X, X]), y=np.concatenate([Y, Y]))
    np.testing.assert_array_equal(twice[:N], twice[N:])
    np.testing.assert_array_equal(twice[:N], stood())
    assert stood(x=X[3:4], y=Y[3:4]) == stood()[3]


def test_a_set_without_one_class_or_with_two_classes_alone():
    rest = np.flatnonzero(Y != Y[0])
    np.testing.assert_array_equal(stood(x=X[rest], y=Y[rest]), stood()[rest])
    two = Partial(logits, jnp.asarray(W[:, :2]))
    assert auto(two, y=np.asarray(two(X).argmax(-1)))["clean"] == 1


def test_weights_as_a_frozen_dict_or_in_numpy_are_weights():
    from flax.core import freeze as frozen

    expected = F_NET(THETA, STATS, X, "eval")[0]
    for change in (frozen, lambda tree: jax.tree.map(np.asarray, tree)):
        found = F_NET(change(THETA), change(STATS), X, "eval")[0]
        np.testing.assert_array_equal(found, expected)
    bound = stood(NET.bind(VARIABLES)), stood(freeze(F_NET)(THETA, STATS))
    np.testing.assert_array_equal(*bound)


def test_bytes_in_a_training_step_are_scaled():
    x = np.uint8(255 * X)
    (_, byte), (_, scaled) = step((x, Y)), step((x / np.float32(255), Y))
    np.testing.assert_allclose(byte["theta/loss"], scaled["theta/loss"], atol=1e-5)


def npz(**changes):
    x = np.uint8(255 * X)
    return {"x_train": x, "y_train": Y, "x_test": x, "y_test": Y} | changes


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"x_train": np.zeros((N, 3, 8, 8), np.uint8)}, "looks like NCHW"),
        ({"x_train": np.uint8(X > 0.5)}, "is uint8 and reaches to 1"),
        ({"y_train": Y + 1}, "from 0 without a gap"),
        ({"y_train": np.eye(K)[Y]}, "one-hot"),
        ({"x_test": X}, "give both in one scale"),
        ({"x_train": np.array([None] * N)}, "not a plain array of numbers"),
    ],
)
def test_a_file_of_ones_own_arrays(changes, words, tmp_path):
    np.savez(tmp_path / "own.npz", **npz(**changes))
    with pytest.raises(ValueError, match=words) as info:
        load(f"npz:{tmp_path / 'own.npz'}")
    assert len(str(info.value).splitlines()) == 1


def test_a_file_of_another_byte_order(tmp_path):
    np.savez(tmp_path / "own.npz", **npz(y_train=swapped(Y.astype(np.int32))))
    assert load(f"npz:{tmp_path / 'own.npz'}", val_size=0).num_classes == K


def test_the_folder_of_the_checkpoints_is_not_that_of_the_run(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(2)}, {})
        with pytest.raises(ValueError, match="unknown kind 'Best'"):
            checkpoints.save(1, {"w": jnp.ones(2)}, {}, kind="Best")  # pyright: ignore
    for wrong in (Checkpoints, restore_any):
        with pytest.raises(ValueError, match=f"themselves: give {tmp_path}"):
            wrong(tmp_path / "checkpoints")


COMMANDS = [
    (train, "--method=GradL2L", "did you mean 'grad_l2l'"),
    (train, "--dataset=CIFAR10", "did you mean 'cifar10'"),
    (train, "--model=MLP", "did you mean 'mlp'"),
    (train, "--eps=8", "so 8 means 8/255"),
    (train, "--lr=0.1", "unknown flag 'lr'"),
    (train, "--final_attacks=PGD20", "unknown attack 'PGD20'"),
    (train, "--batch_size=1.5", "--batch_size=1.5"),
    (train, "--seeds=0-4", "no list of whole numbers"),
    (transfer, "--targets=nowhere", "nowhere is no run"),
    (compare, "--methods=pgm,PGM", "did you mean 'pgm'"),
    (compare, "--methods=pgm,", "unknown method ''"),
    (compare, "--methods=pgm --seeds=1,1", "--seeds=1,1 names one twice"),
    (compare, "--methods=pgm --seeds=a", "no list of whole numbers"),
    (compare, "--methods=pgm --attacks=PGD", "unknown attack 'PGD'"),
    (compare, "--methods=pgm --draws=0", "--draws=0 must be positive"),
    (compare, "--methods=pgm --flags=--method=plain", "--method is compare.py's own"),
    (compare, "--methods=pgm --flags=--epochs='1", "No closing quotation"),
    (search, "--method=plain --trials=0", "--trials=0 must be positive"),
    (search, "--method=GradL2L", "has no search space"),
]


@pytest.mark.parametrize("script, flags, words", COMMANDS, ids=[entry[1] for entry in COMMANDS])
def test_a_command_refuses_before_it_works(script, flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.main(flags.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], lines
    assert not list(tmp_path.iterdir())


def test_evaluate_looks_at_its_outputs_before_it_attacks(tmp_path, capsys):
    small = "--method=plain --model=mlp --batch_size=512 --epochs=1 --diagnose=0 --noplots"
    flags = [
        *small.split(),
        "--notensorboard",
        "--final_attacks=clean",
        f"--workdir={tmp_path}/run",
    ]
    assert train.main(flags) == 0
    capsys.readouterr()
    for flag, words in (
        (f"--output={tmp_path}/no/x.json", "no such folder to write in"),
        (f"--output={tmp_path}", "is a folder: give the name of a file"),
        (f"--save_adversarials={tmp_path}/no/x.npz", "no such folder to write in"),
    ):
        assert evaluate_script.main([f"--workdir={tmp_path}/run", "--attacks=fgsm", flag]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and words in lines[0], lines
