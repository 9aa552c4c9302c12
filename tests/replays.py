"""The authors' training steps, written a second time and plainly: nothing of the package is used.

Each step lists the images that its classifier passes in train mode, in their order, and averages
the running statistics over that list at the end. That is allowed because BatchNorm in train mode
does not look at its running statistics. A step is (game, x, y, draw) -> game: `draw` holds the
random numbers, and a function that takes `running` is in eval mode where it is given.

The codes: Learning-to-Defend-by-Learning-to-Attack (adv_loss.py, train_l2l_*_cifar10.py), TRADES
(trades.py), fast_adversarial (train_fgsm.py), N-FGSM (train.py), understanding-fast-adv-training
(train.py) and Fast-BAT (trainer.py). Two things are not as there. The running variance divides by
n, as in Flax. And the script of two interpolation steps names `attacker.train` without calling it,
so that its attacker is in eval mode from the second batch on; here it trains, as in the other one.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

EPS = 0.1
LR, DECAY, SPEED_KEPT = 0.2, 0.01, 0.9
STATISTICS_KEPT = 0.9
CLASSES = 3

PGM_STEP, PGM_STEPS = 0.04, 3
K_STEP, K_STEPS = 0.06, 3
BETA = 1.5  # of TRADES
LABEL_DELTA = 0.6  # of the interpolation
ALIGNMENT = 0.5  # of GradAlign
BAT_STEP, BAT_LAMBDA = 0.3, 0.2


class Player(NamedTuple):
    """A network in training: its weights, the running statistics, and SGD's momentum."""

    w: dict
    running: dict
    speed: dict

    def moved(self, gradient, hidden):
        """One step of SGD, and the statistics of every layer of `hidden`, one for each pass."""
        slope = jax.tree.map(lambda g, w: g + DECAY * w, gradient, self.w)
        speed = jax.tree.map(lambda v, g: SPEED_KEPT * v + g, self.speed, slope)
        running = self.running
        for h in hidden:
            axes = tuple(range(h.ndim - 1))
            batch = {"mean": h.mean(axes), "var": ((h - h.mean(axes)) ** 2).mean(axes)}
            running = {
                name: STATISTICS_KEPT * running[name] + (1 - STATISTICS_KEPT) * batch[name]
                for name in batch
            }
        return Player(jax.tree.map(lambda w, v: w - LR * v, self.w, speed), running, speed)

    def descends(self, loss, passes):
        """theta down the gradient of its loss, after these passes in train mode."""
        return self.moved(jax.grad(loss)(self.w), [flat_layer(self.w, x) for x in passes])


# The two networks: a layer, BatchNorm, tanh, and a second layer.


def layer(w, v):
    return v @ w["kernel"] + w["bias"]


def flat_layer(w, x):
    return layer(w["first"], x.reshape(len(x), -1))


def pixel_layer(w, a):
    return layer(w["first"], a)


def batch_norm(w, h, running):
    axes = tuple(range(h.ndim - 1))
    mean = h.mean(axes) if running is None else running["mean"]
    var = ((h - mean) ** 2).mean(axes) if running is None else running["var"]
    return (h - mean) / jnp.sqrt(var + 1e-5) * w["scale"] + w["bias"]


def features(theta, x, running=None):
    return jnp.tanh(batch_norm(theta["norm"], flat_layer(theta, x), running))


def logits(theta, x, running=None):
    return layer(theta["last"], features(theta, x, running))


def attacker(phi, a, running=None):
    """Outputs in [-1, 1]; the codes' attackers give EPS times that."""
    h = jnp.tanh(batch_norm(phi["norm"], pixel_layer(phi, a), running))
    return jnp.tanh(layer(phi["last"], h))


# Losses, and the clips of the codes.


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - jnp.log(jnp.exp(z).sum(1, keepdims=True))


def cross_entropy(z, y):
    return -log_softmax(z)[jnp.arange(len(y)), y].mean()


def divergence(z, z_adv):
    """KL(softmax z || softmax z_adv), averaged over the images."""
    log_p, log_q = log_softmax(z), log_softmax(z_adv)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(1).mean()


def in_ball(delta):
    return jnp.minimum(jnp.maximum(delta, -EPS), EPS)


def in_box(x):
    return jnp.minimum(jnp.maximum(x, 0.0), 1.0)


def inside(delta, x):
    """First the ball, then the box."""
    return in_box(x + in_ball(delta)) - x


def slope(f, x, y):
    return jax.grad(lambda x: cross_entropy(f(x), y))(x)


def with_gradient(x, u):
    """What the attacker sees: the image and the gradient over its largest entry in the batch."""
    return jnp.concatenate([x, u / jnp.abs(u).max()], -1)


# L2L: attacks are (f, g, x, y) -> x_adv, the images f has seen, the inputs g has seen.


def naive(f, g, x, y):
    return in_box(x + EPS * g(x)), [], [x]


def one_step(f, g, x, y):
    a = with_gradient(x, slope(f, x, y))
    return in_box(x + EPS * g(a)), [x], [a]


def two_step(f, g, x, y):
    """The second gradient is a constant, the image beside it is not; raw outputs are summed."""
    a = with_gradient(x, slope(f, x, y))
    first = EPS * g(a)
    seen = in_box(x + first)
    b = with_gradient(seen, slope(f, stop_gradient(seen), y))
    return in_box(x + in_ball(first + EPS * g(b))), [x, seen], [a, b]


def k_step(f, g, x, y):
    at, looks, calls = x, [], []
    for _ in range(K_STEPS):
        fixed = stop_gradient(at)
        a = with_gradient(fixed, slope(f, fixed, y))
        looks, calls = [*looks, fixed], [*calls, a]
        at = in_box(at + EPS * g(a) * K_STEP / EPS)
    return in_box(x + in_ball(at - x)), looks, calls


def l2l(attack, trades=False):
    """theta's turn, then phi's on the new theta. With `trades`, the loss of the first upload."""

    def step(game, x, y, draw):
        theta, phi = game
        # The classifier is in train mode, the attacker in eval mode.
        g = partial(attacker, phi.w, running=phi.running)
        x_adv, looks, _ = attack(partial(logits, theta.w), g, x, y)

        def loss(w):
            if not trades:
                return cross_entropy(logits(w, x_adv), y)
            z = logits(w, x)
            return cross_entropy(z, y) + BETA * divergence(z, logits(w, x_adv))

        theta = theta.descends(loss, [*looks, x, x_adv, x] if trades else [*looks, x_adv])
        # The other way round.
        f = partial(logits, theta.w, running=theta.running)

        def loss_of_phi(w):
            x_adv, _, calls = attack(f, partial(attacker, w), x, y)
            robust = BETA * divergence(f(x), f(x_adv)) if trades else cross_entropy(f(x_adv), y)
            return -robust, [pixel_layer(w, a) for a in calls]

        return theta, phi.moved(*jax.grad(loss_of_phi, has_aux=True)(phi.w))

    return step


def interpolation(steps):
    """Both players move on one attack: phi down the distance to the partner, classifier in eval."""

    def step(game, x, y, noise):
        theta, phi = game
        f = partial(features, theta.w, running=theta.running)
        goal = f(x[::-1])

        def distance(x):
            h = f(x)
            cosine = (h * goal).sum(1) / jnp.sqrt((h**2).sum(1) * (goal**2).sum(1))
            return jnp.maximum(1 - cosine, 0).mean()

        def loss_of_phi(w):
            at, calls = x + noise, []
            for i in range(steps):
                a = with_gradient(at, jax.grad(distance)(stop_gradient(at)))
                calls.append(a)
                at = at + EPS * attacker(w, a)
                at = in_box(at) if i < steps - 1 else in_box(x + in_ball(at - x))
            return distance(at), (at, [pixel_layer(w, a) for a in calls])

        gradient, (x_adv, hidden) = jax.grad(loss_of_phi, has_aux=True)(phi.w)
        one_hot = jnp.eye(CLASSES)[y]
        others = (1 - one_hot[::-1]) / (CLASSES - 1)
        soft = (1 - LABEL_DELTA) * one_hot + LABEL_DELTA * others

        def loss(w):
            return -(soft * log_softmax(logits(w, x_adv))).sum(1).mean()

        return theta.descends(loss, [x_adv]), phi.moved(gradient, hidden)

    return step


# No attacker: only theta moves.


def climbed(x, gaussian, loss):
    """Sign steps of PGM and TRADES up a loss of the image."""
    at = x + gaussian
    for _ in range(PGM_STEPS):
        at = at + PGM_STEP * jnp.sign(jax.grad(loss)(at))
        at = in_box(jnp.minimum(jnp.maximum(at, x - EPS), x + EPS))
    return at


def pgm_mix(game, x, y, gaussian):
    theta, phi = game
    f = partial(logits, theta.w, running=theta.running)
    x_adv = climbed(x, gaussian, lambda at: cross_entropy(f(at), y))

    def loss(w):
        return (cross_entropy(logits(w, x), y) + cross_entropy(logits(w, x_adv), y)) / 2

    return theta.descends(loss, [x, x_adv]), phi


def trades(game, x, y, gaussian):
    theta, phi = game
    f = partial(logits, theta.w, running=theta.running)
    x_adv = climbed(x, gaussian, lambda at: divergence(f(x), f(at)))

    def loss(w):
        z = logits(w, x)
        return cross_entropy(z, y) + BETA * divergence(z, logits(w, x_adv))

    return theta.descends(loss, [x, x_adv, x]), phi


def pgd(steps, step_size):
    """Sign steps from a random point, in train mode; one step of 1.25 EPS is Fast-AT's FGSM."""

    def step(game, x, y, noise):
        theta, phi = game
        delta, looks = in_box(x + noise) - x, []
        for _ in range(steps):
            looks.append(x + delta)
            u = slope(partial(logits, theta.w), x + delta, y)
            delta = inside(delta + step_size * jnp.sign(u), x)

        def loss(w):
            return cross_entropy(logits(w, x + delta), y)

        return theta.descends(loss, [*looks, x + delta]), phi

    return step


def n_fgsm(game, x, y, noise):
    """The noise reaches to 2 EPS, and the sum is not cut to the ball."""
    theta, phi = game
    eta = in_box(x + noise) - x
    u = slope(partial(logits, theta.w), x + eta, y)
    x_adv = in_box(x + eta + EPS * jnp.sign(u))

    def loss(w):
        return cross_entropy(logits(w, x_adv), y)

    return theta.descends(loss, [x + eta, x_adv]), phi


def grad_align(game, x, y, noise):
    """Only the gradient at x + noise is differentiated again, and that point may leave the box."""
    theta, phi = game
    u = slope(partial(logits, theta.w), x, y)
    x_adv = x + inside(1.25 * EPS * jnp.sign(u), x)

    def loss(w):
        near = slope(partial(logits, w), x + noise, y)
        norms = jnp.sqrt((u**2).sum((1, 2, 3)) * (near**2).sum((1, 2, 3)))
        cosine = (u * near).sum((1, 2, 3)) / norms
        return cross_entropy(logits(w, x_adv), y) + ALIGNMENT * (1 - cosine.mean())

    return theta.descends(loss, [x, x_adv, x + noise]), phi


def fast_bat(game, x, y, noise):
    """The implicit term by hand: d/dtheta <q(theta), H slope / lambda>, H the open interior."""
    theta, phi = game

    def total_slope(w, x):
        return len(x) * slope(partial(logits, w), x, y)

    start = in_box(x + noise) - x
    z = inside(start + BAT_STEP * total_slope(theta.w, x + start), x)
    delta = inside(z + BAT_STEP * total_slope(theta.w, x + z), x)
    low, high = jnp.maximum(-x, -EPS), jnp.minimum(1 - x, EPS)
    H = (low + 1e-7 < delta) & (delta < high - 1e-7)
    b = H * total_slope(theta.w, x + delta) / BAT_LAMBDA

    def loss(w):
        implicit = (total_slope(w, x + z) * b).sum() / len(x)
        return cross_entropy(logits(w, x + delta), y) + implicit

    return theta.descends(loss, [x + start, x + z, x + delta, x + delta]), phi
