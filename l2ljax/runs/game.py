"""The game of a training run: what `fit` plays, made of objects, and how it is carried out.

    game = make_game(classifier, method, data, eps=8 / 255, tx_theta=optax.sgd(0.1),
                     tx_phi=optax.adam(1e-3), batch_size=128)

It knows no words: `from_config.game_of` turns those of a configuration into objects.
NOTES is what a run
remembers in its checkpoints, and an `EpochEnd` what its callbacks are told.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax.apply import apply_of, as_apply
from l2ljax.ball import batch_rows, per_image
from l2ljax.bilevel import init_state, make_step
from l2ljax.data import Dataset, from_user, take_batch
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import freeze
from l2ljax.gate import check_count, check_eps
from l2ljax.parallel import ONE_DEVICE, Layout
from l2ljax.runs.diagnostics import make_diagnose
from l2ljax.types import Apply, Array, Method, State, stream

PLAYERS = ("theta", "phi")


class Game(NamedTuple):
    """Everything a run needs but its epochs, its seed and its folder.

    init: seed -> the state at step 0, whose shapes are `abstract`.
    train_step: (state, x, y, order, first, key) -> state, metrics: one step on its own batch of the
    images x, which may be flat rows of pixels, order[0] being the first row of step `first`.
    program: (n, *arguments of train_step) -> n such steps, compiled once for all seeds.
    frozen: (theta, theta_stats) -> the classifier in eval mode, in float32 whatever the step
    computes in, because attacks on bfloat16 are too weak.
    measures: what is measured of the attacker after an epoch, (key, state, x, y, eps) -> metrics.
    rates: the learning rates that are logged, step -> number.
    """

    apply: Apply
    method: Method
    data: Dataset
    eps: float
    batch_size: int
    accumulate: int
    layout: Layout
    init: Callable[[int], State]
    abstract: State
    train_step: Callable[..., tuple[State, dict[str, Array]]]
    program: Callable[..., Callable]
    frozen: Callable[..., Callable[[Array], Array]]
    measures: tuple[Callable[..., dict[str, Any]], ...]
    rates: Mapping[str, Callable[[int], Any]]
    on_overfitting: str

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training images."""
        return len(self.data.x_train) // self.batch_size

    @property
    def rows(self) -> int:
        """Images of a batch that one call of the step body sees."""
        return self.layout.rows_per_call(self.batch_size)

    @property
    def part_size(self) -> int:
        """Images of one part of a batch, on all devices."""
        return self.batch_size // self.accumulate

    @property
    def guarded(self) -> bool:
        """Whether its epochs are watched: a net that trains on clean images cannot collapse."""
        return self.method.selects == "robust"


def make_game(
    classifier: Any,
    method: Method,
    data: Any,
    *,
    eps: float,
    tx_theta: optax.GradientTransformation,
    tx_phi: optax.GradientTransformation,
    batch_size: int,
    eps_schedule: Callable[[Array], Array] | None = None,
    phi_steps: int = 1,
    craft_bn: Literal["batch", "update", "eval"] = "batch",
    ema_decay: float = 0.0,
    accumulate: int = 1,
    augment: str | Callable[[Array, Array], Array] | None = None,
    on_overfitting: str = "warn",
    reported: Any = None,
    rates: Mapping[str, Callable[[int], Any]] | None = None,
    layout: Layout = ONE_DEVICE,
) -> Game:
    """The game between a classifier and the attacker of a method, on that data.

    classifier: a flax.linen module, a flax.nnx model, or a function key -> either, for models whose
    weights are drawn when they are made. method: what `l2ljax.make_method` returns, or one's own
    `Method`. data: a `Dataset`, or (x_train, y_train, x_test, y_test). eps is the radius, and
    `eps_schedule` gives that of every step where it is warmed up. `reported` is the same classifier
    in float32, for validation and evaluation, where `classifier` computes in less.
    """
    data = from_user(data, "data")
    check_eps(eps)
    check_count("batch_size", batch_size)
    if batch_size > len(data.x_train):
        raise InputError(
            f"batch_size={batch_size} is larger than the training split of {data.name} "
            f"({len(data.x_train)} images)"
        )
    example = jnp.zeros((batch_size, *data.x_train.shape[1:]), jnp.float32)
    rows = layout.rows_per_call(batch_size)
    model = _made(classifier, jax.random.key(0))
    apply = apply_of(model)
    exact = apply if reported is None else apply_of(reported)
    step = make_step(
        apply,
        method,
        tx_theta,
        tx_phi,
        eps=eps_schedule or eps,
        phi_steps=phi_steps,
        craft_bn=craft_bn,
        ema_decay=ema_decay,
        accumulate=accumulate,
        shard_batch=layout.shard_batch,
    )

    # Not compiled as a whole: `initialise` compiles its random draws faster by itself.
    def start(key: Array) -> State:
        theta_key, phi_key = stream(key, "theta"), stream(key, "phi")
        _, theta, theta_stats = as_apply(_made(classifier, theta_key), theta_key, example)
        ema = ema_decay > 0
        return init_state(phi_key, theta, theta_stats, method, tx_theta, tx_phi, example, ema=ema)

    def train_step(state: State, x: Array, y: Array, order: Array, first: Array, key: Array):
        draws = jax.random.fold_in(jax.random.fold_in(key, state.rollbacks), state.step)
        batch = take_batch(
            per_image(stream(draws, "augmentation"), batch_rows(rows, accumulate)),
            x,
            y,
            order,
            state.step - first,
            batch_size=rows,
            augment=data.augment if augment is None else augment,
            image_shape=tuple(data.x_train.shape[1:]),
        )
        return step(state, batch, key)

    measures = (method.probe(method, apply, craft_bn),) if method.probe else ()
    return Game(
        apply=apply,
        method=method,
        data=data,
        eps=eps,
        batch_size=batch_size,
        accumulate=accumulate,
        layout=layout,
        init=lambda seed: start(jax.random.key(seed)),
        abstract=jax.eval_shape(start, jax.random.key(0)),
        train_step=train_step,
        program=_compile_once(train_step, layout),
        frozen=freeze(exact),
        measures=(*measures, make_diagnose(apply, method)) if method.learns else measures,
        rates=rates or {},
        on_overfitting=on_overfitting,
    )


def _made(classifier: Any, key: Array) -> Any:
    """The model itself, or what the function key -> model makes of this key."""
    is_model = hasattr(classifier, "init") or hasattr(classifier, "eval")
    return classifier if is_model else classifier(key)


def _compile_once(train_step: Callable, layout: Layout) -> Callable[..., Callable]:
    compiled: dict[int, Callable] = {}

    def program(n: int, *arguments: Any) -> Callable:
        if n not in compiled:
            compiled[n] = layout.compile(several(train_step, n), *arguments)
        return compiled[n]

    return program


def several(train_step: Callable, n: int) -> Callable:
    """n steps as one program, and the metrics of each."""

    def steps(state: State, *rest: Array):
        if n == 1:
            state, metrics = train_step(state, *rest)
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda state, _: train_step(state, *rest), state, length=n)

    return steps


NOTES: dict[str, Any] = {
    "sums": {},
    "count": 0,
    "best": {},
    "seconds": 0.0,
    "peak": 0.0,  # the best val/robust so far
    "overfitting": [],  # the collapses that the guard has seen
    "collapsed": False,  # whether it saw one in the last epoch
    "stopped": None,  # the epoch with which the run ended before its time
    "stopped_by": None,  # "overfitting" or "callback"
}


class Diverged(InputError):
    """The loss is no number any more."""


class Options(NamedTuple):
    """How a run is carried out; none of these decides its outcome (settings.OPTIONS says more)."""

    eval_batch: int = 250
    validate_every: int = 1
    diagnose: int = 128
    steps_per_call: int | None = None
    data_on: str | None = None
    profile: bool = False
    log_every: int = 50
    checkpoint_every: int = 1
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False


class EpochEnd(NamedTuple):
    """What a callback is given after every epoch.

    metrics are those of the epoch's line in metrics.jsonl. The arrays of `state` are freed by the
    next step: what a callback wants to keep it copies, `jax.tree.map(numpy.array, state)`.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    state: State
    game: Game
    workdir: pathlib.Path | None


Callback = Callable[[EpochEnd], Any]
"""Called by the first process after an epoch was validated, and before it is saved.

The run ends with this epoch where it returns True; the checkpoint says so, and the run is not
continued later. On resume callbacks are called for the epochs that are played, and not again for
those that the checkpoint holds: what a callback remembers itself is not stored. An epoch that is
taken back because it has overfitted is told before it is taken back. What a callback raises ends
the run as it would anywhere, and the same call resumes it from the last checkpoint.
"""


def check_finite(values: Mapping[str, float], step: int, total: int, checkpoints: Any) -> None:
    """A number among a step's metrics that is none ends the run."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.steps()
        good = f"the last good checkpoint is step {kept[-1]}" if kept else "nothing is saved yet"
        raise Diverged(
            f"{bad[0]} is {values[bad[0]]} at step {step} of {total}; {good}; try a lower "
            "--theta_lr or --phi_lr, --theta_clip=1, or --eps_warmup"
        )
