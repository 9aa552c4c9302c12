"""Runs of attacks one after another over a set: each sees only the images that still stand.

Survivors are packed into full batches of one fixed shape, so nothing recompiles, and what an image
draws depends on its index alone, so neither the packing nor the batch size changes a result. A
claimed adversarial image counts only if it is finite, in the box and in the ball, and wrong when
classified again in true float32. The state is plain NumPy and says for every image in which run
it fell, so that an interrupted cascade goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks.loop import classifier
from l2ljax.ball import scale, size
from l2ljax.types import Array, Tree

STANDS = np.iinfo(np.int32).max
"""The run in which an image fell that has not fallen."""

CLEAN = -1
"""The run before the first: images that are misclassified as they are."""

ROUNDING = 1e-6
"""How far outside the ball or the box float32 may leave a pixel."""


class Run(NamedTuple):
    """One pass over the standing images: play(rng, f, x, y, *, eps, norm) -> x_adv.

    `draw` is folded into the key, `eps` replaces the cascade's radius, `cost` is the work per
    image in forward passes, by which time left is guessed.
    """

    name: str
    play: Callable[..., Array]
    draw: int = 0
    eps: float | None = None
    cost: float = 1.0


class State(NamedTuple):
    """How far a cascade is: `position` images of run `run` are done; where every image fell.

    `largest` is the norm of the largest perturbation that counted, `low` and `high` the range of
    its pixels; `refused` counts claims that were not finite or left the ball or the box.
    """

    run: int
    position: int
    fell: np.ndarray
    x_adv: np.ndarray
    largest: float = 0.0
    low: float = 1.0
    high: float = 0.0
    refused: int = 0

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

    Lawful is what is finite, in the box and in the ball. An image falls if both hold.
    """

    wrong: np.ndarray
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
    wrong = (logits.argmax(-1) != y) | jnp.isnan(logits).any(-1)
    return wrong, size(x_adv - x, norm).reshape(len(x)), pixels.min(-1), pixels.max(-1)


def judge(
    f: Callable[[Array], Array], x: Array, x_adv: Array, y: Array, *, eps: float, norm: str
) -> Claims:
    """Classify again, in true float32, and measure against ball and box."""
    # Convolutions default to less on accelerators (TF32, bfloat16).
    with jax.default_matmul_precision("highest"):
        examined = _examine(classifier(f), x, x_adv, y, norm)
    wrong, far, low, high = map(np.asarray, examined)
    # A comparison with NaN is false: what is not finite is not lawful.
    lawful = (far <= eps + ROUNDING) & (low >= -ROUNDING) & (high <= 1 + ROUNDING)
    return Claims(wrong, lawful, far, low, high)


@jax.jit
def _keys(rng, rows):
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)


def batches(rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows in blocks of batch_size, the last one filled up; and how many of each are real."""
    for first in range(0, len(rows), batch_size):
        block = rows[first : first + batch_size]
        yield np.resize(block, batch_size), len(block)


def cascade(
    rng: Array,
    f: Callable[[Array], Array],
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
    f32: Callable[[Array], Array] | None = None,
    share: Callable[[Tree], Tree] = lambda batch: batch,
) -> State:
    """Play every run on the images that still stand; `f32` is the classifier that has to agree.

    x is uint8, or float in [0, 1]. With `keep`, x_adv holds the adversarial image of every one
    that fell and the image itself elsewhere. `state` goes on from there; `on_progress` is called
    with the state after every batch, whose arrays the next batch changes, and may raise to stop;
    `share` cuts a batch over devices, on all of which f must then be.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive")
    f = classifier(f)
    f32 = f if f32 is None else classifier(f32)
    if state is None:
        state = start(x, keep=keep)
    state = state._replace(fell=np.array(state.fell), x_adv=np.array(state.x_adv))
    if len(state.fell) != len(x) or len(state.x_adv) not in (0, len(x)):
        raise ValueError(f"the state is of {len(state.fell)} images, not of {len(x)}")
    for number in range(state.run, len(runs)):
        run = runs[number] if number >= 0 else Run("clean", lambda rng, f, x, *_, **__: x)
        key = jax.random.fold_in(rng, run.draw)
        rows = np.flatnonzero(state.fell >= number)
        for block, n in batches(rows[state.position :], batch_size):
            pixels, labels, drawn = map(jnp.asarray, share((x[block], y[block], block)))
            images = scale(pixels)
            radius = run.eps or eps
            attacked = run.play(_keys(key, drawn), f, images, labels, eps=radius, norm=norm)
            claims = judge(f32, images, attacked, labels, eps=radius, norm=norm)
            state = _record(state, number, block, n, images, attacked, claims)
            if on_progress is not None:
                on_progress(state)
        state = state._replace(run=number + 1, position=0)
    return state


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
    return state._replace(run=number, position=state.position + n, refused=refused)


def share_of_work(state: State, runs: Sequence[Run]) -> float:
    """The share of a cascade's work that is done, if no further image falls."""
    costs = [1.0, *(run.cost for run in runs)]
    seen = [int((state.fell >= number).sum()) for number in range(CLEAN, len(runs))]
    current = state.run + 1
    done = sum(cost * n for cost, n in zip(costs[:current], seen, strict=False))
    if current < len(costs):
        done += costs[current] * state.position
    return done / max(sum(cost * n for cost, n in zip(costs, seen, strict=True)), 1.0)
