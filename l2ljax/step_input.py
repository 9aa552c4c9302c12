"""What a training step is given: the method, the optimisers and a state that fits them.

    check_players(method, tx_theta, tx_phi)
    check_state(state, tx_theta, tx_phi, averages=True)

Images, labels and the radius are checked by `gate`.
"""

from typing import Any

import jax
import optax

from l2ljax.errors import InputError
from l2ljax.types import Method, State


def check_players(method: Any, tx_theta: Any, tx_phi: Any) -> None:
    """An InputError unless there are a method and two optax transformations."""
    if not isinstance(method, Method):
        raise InputError(f"method is a {type(method).__name__}: pass make_method(name, ...)")
    for name, tx in (("tx_theta", tx_theta), ("tx_phi", tx_phi)):
        if not isinstance(tx, optax.GradientTransformation):
            raise InputError(
                f"{name} is a {type(tx).__name__}: pass an optax transformation, such as "
                "optax.sgd(0.1); optax.identity() where nothing is learned"
            )


def check_state(state: Any, tx_theta: Any, tx_phi: Any, averages: bool) -> None:
    """An InputError unless the state is one that `init_state` made for this step."""
    if not isinstance(state, State):
        raise InputError(f"the state is a {type(state).__name__}: pass init_state(...)")
    moved = (
        ("tx_theta", tx_theta, state.theta, state.opt_theta),
        ("tx_phi", tx_phi, state.phi, state.opt_phi),
    )
    for name, tx, parameters, opt in moved:
        wanted = jax.eval_shape(tx.init, parameters)
        if jax.tree.structure(wanted) != jax.tree.structure(opt):
            raise InputError(f"the state was made for another {name}: give init_state the same one")
    if averages != bool(jax.tree.leaves(state.ema)):
        raise InputError(
            "ema_decay above 0 and init_state(..., ema=True) belong together: the average of a "
            "state without the other is missing, or stays at the first weights"
        )
