"""From the words of a configuration to objects: classifier, method, optimisers, devices, game.

This is the one border between the two. Above it a radius is a text such as `8/255`, below it a
number.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2ljax.checkpoint import restore_any
from l2ljax.data import Dataset
from l2ljax.data.batches import AUGMENTS
from l2ljax.errors import InputError
from l2ljax.methods import make_method, wants_attacker
from l2ljax.models import ATTACKERS, make_attacker, make_classifier
from l2ljax.parallel import ONE_DEVICE, Layout, lay_out
from l2ljax.plugins import split
from l2ljax.runs.config import Config, epochs
from l2ljax.runs.game import Game, make_game
from l2ljax.schedules import learning_rate, optimiser, radius
from l2ljax.settings import fraction
from l2ljax.types import Array, Method, State

PLAYERS = ("theta", "phi")


def game_of(config: Config, data: Dataset, layout: Layout = ONE_DEVICE) -> Game:
    """The game that a configuration describes, on that data and those devices."""
    if config["batch_size"] > len(data.x_train):
        raise InputError(
            f"--batch_size={config['batch_size']} is larger than the training split "
            f"of {data.name} ({len(data.x_train)} images)"
        )
    per_epoch = len(data.x_train) // config["batch_size"]
    rates = {player: _rate(config, player, per_epoch) for player in PLAYERS}
    txs = {player: _optimiser(config, player, rates[player]) for player in PLAYERS}
    eps, method = fraction(config["eps"]), method_of(config, data.x_train.shape[-1])
    game = make_game(
        lambda key: classifier_of(config, data, key),
        method,
        data,
        eps=eps,
        eps_schedule=radius(eps, warmup_epochs=config["eps_warmup"], steps_per_epoch=per_epoch),
        tx_theta=txs["theta"],
        tx_phi=txs["phi"],
        reported=classifier_of(config | {"bf16": False}, data, jax.random.key(0)),
        augment=_augment_of(config),
        rates=rates if method.learns else {"theta": rates["theta"]},
        layout=layout,
        **{
            name: config[name]
            for name in (
                "batch_size",
                "phi_steps",
                "craft_bn",
                "ema_decay",
                "accumulate",
                "on_overfitting",
            )
        },
    )
    if config["init_from"] in ("", "none"):
        return game
    return game._replace(init=lambda seed: _start_from(config["init_from"], game.init(seed)))


def layout_of(config: Config, kind: str | None, devices: Sequence[Any] = ()) -> Layout:
    """Devices for the batches of a configuration; no kind takes all that are visible, or given."""
    sizes = {name: config[name] for name in ("batch_size", "accumulate")}
    try:
        return lay_out(kind, devices=devices, **sizes)
    except InputError as error:
        raise InputError(f"--batch_size, --parallel, --accumulate: {error}") from None


def classifier_of(config: Config, data: Dataset, key: Array) -> Any:
    """The classifier of a configuration; the key is for models that draw their weights at once."""
    model, rngs = config.model(), None
    if not isinstance(model, str):
        named, own = model, config.of(model)
        model, rngs = partial(named, **own) if own else named, key
    return make_classifier(
        model,
        data.num_classes,
        mean=data.mean,
        std=data.std,
        dtype=_dtype(config),
        dropout=config["dropout"],
        remat=config["remat"],
        shape=tuple(data.x_train.shape[1:]),  # pyright: ignore
        rngs=rngs,
    )


def method_of(config: Config, channels: int) -> Method:
    """The method of a configuration, with its attacker for images of so many channels."""
    function, attacker = config.method(), None
    if wants_attacker(function):
        text, how = config["attacker"], {"width": config["attacker_width"]}
        if split(text) is not None:
            made = config.find("attacker", ATTACKERS)
            attacker = made(channels=channels, **config.of(made))
        else:
            attacker = make_attacker(text, channels, dtype=_dtype(config), **how)
    return make_method(function, attacker=attacker, **config.of(function))


def _augment_of(config: Config) -> Any:
    """The data set's own augmentation, one of that name, or the user's own function."""
    text = config["augment"]
    return text if text is None else config.find("augment", {name: name for name in AUGMENTS})


def _dtype(config: Config) -> Any:
    # float32, or float64 where JAX is told to compute in it.
    return jnp.bfloat16 if config["bf16"] else jnp.result_type(float)


def _rate(config: Config, player: str, steps_per_epoch: int) -> Callable:
    # In the alternating order phi's chain counts phi_steps updates a step.
    updates = config["phi_steps"] if player == "phi" else 1
    return learning_rate(
        config[f"{player}_schedule"],
        config[f"{player}_lr"],
        epochs=config["epochs"],
        steps_per_epoch=steps_per_epoch * updates,
        peak_at=config[f"{player}_peak_at"],
        drops=epochs(config[f"{player}_drops"], f"--{player}_drops"),
        drop_factor=config[f"{player}_drop_factor"],
    )


def _optimiser(config: Config, player: str, rate: Callable) -> optax.GradientTransformation:
    return optimiser(
        config[f"{player}_opt"],
        rate,
        weight_decay=config[f"{player}_wd"],
        momentum=config[f"{player}_momentum"],
        b2=config[f"{player}_b2"],
        clip=config[f"{player}_clip"],
    )


def _start_from(workdir: str, state: State) -> State:
    """theta and its statistics from another run's best checkpoint; everything else is new."""
    tree, _, _ = restore_any(workdir, kind="best")
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
