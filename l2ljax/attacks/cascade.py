"""Runs of attacks one after another over a set: each sees only the images that still stand.

Survivors are packed into full batches of one fixed shape, so nothing recompiles, and what an image
draws depends on its index alone, so neither the packing nor the batch size changes a result. A
claimed adversarial image counts only if it is finite, in the box and in the ball, and wrong when
classified again. The search computes in true float32 as the check of a claim does: in less it would
end on claims that the check refuses. The state is plain NumPy and says for every image in which run
it fell, so that an interrupted cascade goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks.entrance import check_dataset, classifier, draw_keys, mean_logits
from l2ljax.ball import scale, size
from l2ljax.errors import InputError
from l2ljax.losses import cross_entropy
from l2ljax.types import Array, Tree, one_key

STANDS = np.iinfo(np.int32).max
"""The run in which an image fell that has not fallen."""

CLEAN = -1
"""The run before the first: images that are misclassified as they are."""

ROUNDING = 1e-6
"""How far outside the ball or the box float32 may leave a pixel."""


class Run(NamedTuple):
    """One pass over the standing images: play(rng, f, x, y, *, eps, norm) -> x_adv.

    `draw` is folded into the key, `eps` replaces the cascade's radius, `cost` is the work per
    image in forward passes, by which time left is guessed; `gradient` says whether it follows one.
    """

    name: str
    play: Callable[..., Array]
    draw: int = 0
    eps: float | None = None
    cost: float = 1.0
    gradient: bool = True


class State(NamedTuple):
    """How far a cascade is: `position` images of run `run` are done; where every image fell.

    `largest` is the norm of the largest perturbation that counted, `low` and `high` the range of
    its pixels; `refused` counts claims that were not finite or left the ball or the box,
    `nan_logits` the clean images whose logits are NaN: they count as misclassified. `nan_gradient`
    counts the images that stand at the end although the gradient of cross-entropy at them is NaN or
    infinite, so that no attack by gradient could move them; None is: nobody has looked.
    """

    run: int
    position: int
    fell: np.ndarray
    x_adv: np.ndarray
    largest: float = 0.0
    low: float = 1.0
    high: float = 0.0
    refused: int = 0
    nan_logits: int = 0
    nan_gradient: int | None = None

    @property
    def robust(self) -> np.ndarray:
        """Which images stand."""
        return self.fell == STANDS

    def after(self, run: int) -> float:
        """The share of images that stand after that run."""
        return float((self.fell > run).mean())


OnProgress = Callable[[State], None]


def start(x: np.ndarray, *, keep: bool) -> State:
    """Nothing done yet; `keep` makes room for the adversarial images."""
    room = len(x) if keep else 0
    x_adv = np.empty((room, *x.shape[1:]), np.float32)
    return State(CLEAN, 0, np.full(len(x), STANDS, np.int32), x_adv)


class Claims(NamedTuple):
    """What became of a batch: is it misclassified, is it lawful, how far and where its pixels are.

    Lawful is what is finite, in the box and in the ball. An image falls if both hold. Logits that
    are NaN (`nan`) are wrong too.
    """

    wrong: np.ndarray
    nan: np.ndarray
    lawful: np.ndarray
    far: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def fallen(self) -> np.ndarray:
        """Which claims count."""
        return self.wrong & self.lawful


@partial(jax.jit, static_argnames="norm")
def _examine(f, x, x_adv, y, norm):
    logits, pixels = f(x_adv), x_adv.reshape(len(x), -1)
    nan = jnp.isnan(logits).any(-1)
    wrong = (logits.argmax(-1) != y) | nan
    far = size(x_adv - x, norm).reshape(len(x))
    return logits, (wrong, nan, far, pixels.min(-1), pixels.max(-1))


def logits_of(f: Callable[[Array], Array], x: Array, y: Array, norm: str) -> np.ndarray:
    """The logits as `check_claims` computes them, by the program that it has compiled anyway."""
    with true_float32():
        return np.asarray(_examine(classifier(f), x, x, y, norm)[0])


def check_claims(
    f: Callable[[Array], Array], x: Array, x_adv: Array, y: Array, *, eps: float, norm: str
) -> Claims:
    """Classify again, in true float32, and measure against ball and box."""
    with true_float32():
        _, examined = _examine(classifier(f), x, x_adv, y, norm)
    wrong, nan, far, low, high = map(np.asarray, examined)
    # A comparison with NaN is false: what is not finite is not lawful.
    lawful = (far <= eps + ROUNDING) & (low >= -ROUNDING) & (high <= 1 + ROUNDING)
    return Claims(wrong, nan, lawful, far, low, high)


def true_float32() -> AbstractContextManager[Any]:
    """Products and convolutions in float32, where accelerators default to TF32 or bfloat16."""
    return jax.default_matmul_precision("highest")


@jax.jit
def _keys(rng, rows):
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)


def batches(rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows in blocks of batch_size, the last one filled up; and how many of each are real."""
    for first in range(0, len(rows), batch_size):
        block = rows[first : first + batch_size]
        yield np.resize(block, batch_size), len(block)


@jax.jit
def _gradient_is_broken(f, x, y):
    u = jax.grad(lambda x: cross_entropy(f(x), y).sum())(x)
    return ~jnp.isfinite(u).all(tuple(range(1, u.ndim)))


EOT = 0x656F74
"""Keeps the keys of the final check of a random classifier apart from those of the attacks."""


def function_of_x(f: Partial, rng: Array, rows: Array, eot: int) -> Partial:
    """f itself, or of a classifier that draws its mean logits over eot keys of every row's own."""
    if not eot:
        return f
    keys = _keys(jax.random.fold_in(rng, EOT), rows)
    return Partial(mean_logits, f, draw_keys(keys, eot))


def cascade(
    rng: Array,
    f: Callable[..., Array],
    x: np.ndarray,
    y: np.ndarray,
    runs: Sequence[Run],
    *,
    eps: float,
    norm: str,
    batch_size: int,
    keep: bool = False,
    state: State | None = None,
    on_progress: OnProgress | None = None,
    eot: int = 0,
    to_devices: Callable[[Tree], Tree] = lambda batch: batch,
) -> State:
    """Play every run on the images that still stand, and look at the gradient of those left.

    x is uint8, or float in [0, 1]. With `keep`, x_adv holds the adversarial image of every one
    that fell and the image itself elsewhere. `state` goes on from there; `on_progress` is called
    with the state after every batch, whose arrays the next batch changes, and may raise to stop;
    `to_devices` spreads a batch over devices, on all of which f must then be. With `eot`, f is a
    classifier f(x, key), and its mean logits over so many keys decide.
    """
    rng = one_key(rng)
    x, y, _ = check_dataset(f, x, y, batch_size=batch_size, key=rng if eot else None)
    for radius in (eps, *(run.eps for run in runs if run.eps is not None)):
        gate.check_eps(radius, norm)
    f = classifier(f)
    if state is None:
        state = start(x, keep=keep)
    state = state._replace(fell=np.array(state.fell), x_adv=np.array(state.x_adv))
    if len(state.fell) != len(x) or len(state.x_adv) not in (0, len(x)):
        raise InputError(f"the state is of {len(state.fell)} images, not of {len(x)}")
    for number in range(state.run, len(runs)):
        run = runs[number] if number >= 0 else Run("clean", lambda rng, f, x, *_, **__: x)
        key = jax.random.fold_in(rng, run.draw)
        rows = np.flatnonzero(state.fell >= number)
        radius = eps if run.eps is None else run.eps
        for block, n in batches(rows[state.position :], batch_size):
            images, labels, drawn = _batch(to_devices, x, y, block)
            with gate.checked(), true_float32():
                attacked = run.play(_keys(key, drawn), f, images, labels, eps=radius, norm=norm)
            decides = function_of_x(f, rng, drawn, eot)
            claims = check_claims(decides, images, attacked, labels, eps=radius, norm=norm)
            state = _record(state, number, block, n, images, attacked, claims)
            if on_progress is not None:
                on_progress(state)
        state = state._replace(run=number + 1, position=0)
    if state.nan_gradient is None and any(run.gradient for run in runs):
        count = 0
        for block, n in batches(np.flatnonzero(state.robust), batch_size):
            images, labels, drawn = _batch(to_devices, x, y, block)
            count += nan_gradients(function_of_x(f, rng, drawn, eot), images, labels, n)
        state = state._replace(nan_gradient=count)
    return state


def nan_gradients(f: Callable[[Array], Array], x: Array, y: Array, n: int) -> int:
    """Of the first n images, those at which the gradient of cross-entropy is NaN or infinite."""
    with true_float32():
        return int(np.asarray(_gradient_is_broken(classifier(f), x, y))[:n].sum())


def _batch(to_devices: Callable[[Tree], Tree], x: np.ndarray, y: np.ndarray, block: np.ndarray):
    pixels, labels, rows = map(jnp.asarray, to_devices((x[block], y[block], block)))
    return scale(pixels), labels, rows


def _record(state: State, number: int, block: np.ndarray, n: int, images, attacked, claims):
    rows, fallen = block[:n][claims.fallen[:n]], claims.fallen[:n]
    state.fell[rows] = number
    if len(state.x_adv):
        if number == CLEAN:
            state.x_adv[block[:n]] = np.asarray(images)[:n]
        state.x_adv[rows] = np.asarray(attacked)[:n][fallen]
    if number > CLEAN and len(rows):
        state = state._replace(
            largest=max(state.largest, float(claims.far[:n][fallen].max())),
            low=min(state.low, float(claims.low[:n][fallen].min())),
            high=max(state.high, float(claims.high[:n][fallen].max())),
        )
    refused = state.refused + int((claims.wrong & ~claims.lawful)[:n].sum())
    state = state._replace(run=number, position=state.position + n, refused=refused)
    if number == CLEAN:
        state = state._replace(nan_logits=state.nan_logits + int(claims.nan[:n].sum()))
    return state


def share_of_work(state: State, runs: Sequence[Run]) -> float:
    """The share of a cascade's work that is done, if no further image falls."""
    costs = [1.0, *(run.cost for run in runs)]
    seen = [int((state.fell >= number).sum()) for number in range(CLEAN, len(runs))]
    current = state.run + 1
    done = sum(cost * n for cost, n in zip(costs[:current], seen, strict=False))
    if current < len(costs):
        done += costs[current] * state.position
    return done / max(sum(cost * n for cost, n in zip(costs, seen, strict=True)), 1.0)
