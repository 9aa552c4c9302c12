"""From a configuration to the game: data, classifier, method, step and state, ready to play."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2ljax.runs.settings import STEPS, check_batch, epochs
from l2ljax.ball import batch_rows, per_image
from l2ljax.bilevel import init_state, make_step
from l2ljax.checkpoint import restore_any
from l2ljax.data import Dataset, load, take_batch
from l2ljax.diagnostics import make_diagnose
from l2ljax.evaluation.accuracy import freeze
from l2ljax.functional import functional, initialise
from l2ljax.methods import METHODS, make_method
from l2ljax.models import make_attacker, make_classifier
from l2ljax.devices import AXIS
from l2ljax.parallel import ONE_DEVICE, Layout, lay_out
from l2ljax.schedules import learning_rate, optimiser, radius
from l2ljax.streams import stream
from l2ljax.types import Apply, Array, Method, State
from l2ljax.errors import InputError
from l2ljax.settings import fraction, step_size


class Game(NamedTuple):
    """Everything a loop needs; `step` is the bilevel step, `train_step` takes its batch as well.

    `program(n, ...)` is n of them compiled for the arguments that follow, once for all the seeds of
    a command: (state, x, y, order, first, rng) -> (state, metrics of n steps), laid over devices by
    `layout`, order[0] being the first row of step `first`. `rows` are the images that one device's
    body sees of a batch, `part_size` those of a part of the batch on all devices;
    `frozen` is (theta, stats) -> the classifier in eval mode, in float32 whatever the step computes
    in, since attacks on bfloat16 are too weak; `probe` is the method's, if any.
    """

    f: Apply
    frozen: Callable[..., Callable[[Array], Array]]
    method: Method
    init: Callable[[int], State]
    abstract: State
    step: Callable
    train_step: Callable[..., tuple[State, dict[str, Array]]]
    program: Callable[..., Callable]
    layout: Layout
    rows: int
    part_size: int
    diagnose: Callable[..., dict[str, float]]
    probe: Callable[..., dict[str, Array]] | None
    rates: dict[str, Callable[[int], Any]]
    steps_per_epoch: int
    eps: float
    selects: str
    guarded: bool
    on_overfitting: str


def load_data(config: dict[str, Any], data_dir: str | None, download: bool = True) -> Dataset:
    """The splits that a configuration trains and validates on."""
    sizes = {name: config[name] for name in ("val_size", "train_size")}
    return load(config["dataset"], data_dir=data_dir, download=download, **sizes)


def layout_of(config: dict[str, Any], kind: str | None) -> Layout:
    """Devices for the batches of a configuration; no kind takes all that are visible."""
    try:
        return lay_out(kind, batch_size=config["batch_size"], accumulate=config["accumulate"])
    except ValueError as error:
        raise InputError(f"--batch_size, --parallel, --accumulate: {error}") from None


def make_game(config: dict[str, Any], data: Dataset, layout: Layout = ONE_DEVICE) -> Game:
    """The game that a configuration describes, on that dataset and those devices."""
    check_batch(config, data)
    classifier, method = players(config, data)
    # The step's own method reduces over the devices; outside the step nothing does.
    axis_name = AXIS if layout.kind == "pmap" else None
    step_method = method_of(config, data.x_train.shape[-1], axis_name)
    steps_per_epoch = len(data.x_train) // config["batch_size"]
    rates = {player: _rate(config, player, steps_per_epoch) for player in ("theta", "phi")}
    tx_theta, tx_phi = (_optimiser(config, player, rates[player]) for player in ("theta", "phi"))
    f, eps = functional(classifier), fraction(config["eps"])
    # Whatever is reported is of the float32 net with these weights, also where it trains in bf16.
    exact = functional(players(config | {"bf16": False}, data)[0])
    step = make_step(
        f,
        step_method,
        tx_theta,
        tx_phi,
        eps=radius(eps, warmup_epochs=config["eps_warmup"], steps_per_epoch=steps_per_epoch),
        phi_steps=config["phi_steps"],
        craft_bn=config["craft_bn"],
        ema_decay=config["ema_decay"],
        accumulate=config["accumulate"],
        shard_batch=layout.shard_batch,
    )
    example = jnp.zeros((config["batch_size"], *data.x_train.shape[1:]), jnp.float32)

    rows = layout.rows_per_call(config["batch_size"])

    # Not compiled as a whole: `initialise` compiles its random draws faster by itself.
    def fresh(rng: Array) -> State:
        theta_key, phi_key = stream(rng, "theta"), stream(rng, "phi")
        theta, theta_stats = initialise(classifier, theta_key, example)
        ema = config["ema_decay"] > 0
        return init_state(phi_key, theta, theta_stats, method, tx_theta, tx_phi, example, ema=ema)

    def init(seed: int) -> State:
        if config["init_from"] in ("", "none"):
            return fresh(jax.random.key(seed))
        tree, _, _ = restore_any(config["init_from"], kind="best")
        return _start_from(config["init_from"], tree, fresh(jax.random.key(seed)))

    def train_step(state: State, x: Array, y: Array, order: Array, first: Array, rng: Array):
        draws = jax.random.fold_in(jax.random.fold_in(rng, state.rollbacks), state.step)
        image_rows = batch_rows(rows, config["accumulate"])
        batch = take_batch(
            per_image(stream(draws, "augmentation"), image_rows),
            x,
            y,
            order,
            state.step - first,
            batch_size=rows,
            augment=config["augment"] or data.augment,
        )
        return step(state, batch, rng)

    return Game(
        f=f,
        frozen=freeze(exact),
        method=method,
        init=init,
        abstract=jax.eval_shape(fresh, jax.random.key(0)),
        step=step,
        train_step=train_step,
        program=_compile_once(train_step, layout),
        layout=layout,
        rows=rows,
        part_size=config["batch_size"] // config["accumulate"],
        diagnose=make_diagnose(f, method),
        probe=method.probe(method, f, config["craft_bn"]) if method.probe else None,
        rates=rates,
        steps_per_epoch=steps_per_epoch,
        eps=eps,
        selects=METHODS[config["method"]].selects,
        # A net that trains on clean images has no robustness to lose.
        guarded=METHODS[config["method"]].selects == "robust",
        on_overfitting=config["on_overfitting"],
    )


def players(config: dict[str, Any], data: Dataset) -> tuple[Any, Method]:
    """The classifier and the method of a configuration."""
    try:
        classifier = make_classifier(
            config["model"],
            data.num_classes,
            mean=data.mean,
            std=data.std,
            dtype=_dtype(config),
            dropout=config["dropout"],
            remat=config["remat"],
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    return classifier, method_of(config, data.x_train.shape[-1])


def method_of(config: dict[str, Any], channels: int, axis_name: str | None = None) -> Method:
    """The method of a configuration, with its attacker for images of so many channels."""
    attacker = (
        make_attacker(
            config["attacker"],
            channels,
            width=config["attacker_width"],
            dtype=_dtype(config),
        )
        if METHODS[config["method"]].network
        else None
    )
    return make_method(
        config["method"],
        attacker=attacker,
        smoothing=config["label_smoothing"],
        order=config["order"],
        axis_name=axis_name,
        remat=config["remat"],
        **_settings(config),
    )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What the method's row takes, as numbers."""
    takes = METHODS[config["method"]].takes
    settings = {name: config[name] for name in takes}
    settings |= {name: step_size(settings[name]) for name in STEPS if name in takes}
    if "bat_lambda" in takes:
        settings["bat_lambda"] = settings["bat_lambda"] or 1 / settings["bat_step"]
    return settings


def _dtype(config: dict[str, Any]) -> Any:
    # float32, or float64 where JAX is told to compute in it.
    return jnp.bfloat16 if config["bf16"] else jnp.result_type(float)


def _compile_once(train_step: Callable, layout: Layout) -> Callable[..., Callable]:
    kept: dict[int, Callable] = {}

    def program(n: int, *arguments: Any) -> Callable:
        if n not in kept:
            kept[n] = layout.compile(_several(train_step, n), *arguments)
        return kept[n]

    return program


def _several(train_step: Callable, n: int) -> Callable:
    """n steps as one program, and the metrics of each."""

    def steps(state: State, *rest: Array):
        if n == 1:
            state, metrics = train_step(state, *rest)
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda state, _: train_step(state, *rest), state, length=n)

    return steps


def _rate(config: dict[str, Any], player: str, steps_per_epoch: int) -> Callable:
    kind = config[f"{player}_schedule"]
    # In the alternating order phi's chain counts phi_steps updates a step.
    updates = config["phi_steps"] if player == "phi" else 1
    return learning_rate(
        kind,
        config[f"{player}_lr"],
        epochs=config["epochs"],
        steps_per_epoch=steps_per_epoch * updates,
        peak_at=config[f"{player}_peak_at"],
        drops=epochs(config[f"{player}_drops"], f"--{player}_drops"),
        drop_factor=config[f"{player}_drop_factor"],
    )


def _optimiser(config: dict[str, Any], player: str, rate: Callable):
    return optimiser(
        config[f"{player}_opt"],
        rate,
        weight_decay=config[f"{player}_wd"],
        momentum=config[f"{player}_momentum"],
        b2=config[f"{player}_b2"],
        clip=config[f"{player}_clip"],
    )


def _start_from(workdir: str, tree: dict[str, Any], state: State) -> State:
    """theta and its statistics from another run's best checkpoint; everything else is new."""
    for name in ("theta", "theta_stats"):
        new, old = (jax.tree.map(jnp.shape, t) for t in (tree[name], getattr(state, name)))
        if new != old:
            raise InputError(f"--init_from={workdir}: its {name} is of another architecture")
    theta = jax.tree.map(jnp.asarray, tree["theta"])
    stats = jax.tree.map(jnp.asarray, tree["theta_stats"])
    state = state._replace(theta=theta, theta_stats=stats)
    if not state.ema:
        return state
    ema, ema_stats = jax.tree.map(jnp.copy, (theta, stats))
    return state._replace(ema=ema, ema_stats=ema_stats)
