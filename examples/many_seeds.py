"""Many seeds as one program: jax.vmap over the states of a game's step.

    python examples/many_seeds.py

For small nets, which do not fill a machine alone. Every seed has weights, an order of the images
and random draws of its own, as in a run of that seed; validation and checkpoints are not made.
"""

import jax
import jax.numpy as jnp
import optax

import l2ljax
from l2ljax.data import epoch_order, load, scale
from l2ljax.models import make_attacker, make_classifier


def main(seeds: tuple[int, ...] = (0, 1, 2, 3), epochs: int = 5, eps: float = 0.1) -> jax.Array:
    """The test accuracy of every seed's classifier."""
    method = l2ljax.make_method(
        "grad_l2l",
        attacker=make_attacker("two_layer", 1, width=1 / 16),
        order="simultaneous",
        attacker_start="zero",
        grad_norm="per_example_max",
        attack_loss="ce",
        label_smoothing=0.0,
    )
    players = {"tx_theta": optax.sgd(0.1, 0.9), "tx_phi": optax.adam(1e-3)}
    data, net = load("digits"), make_classifier("mlp", 10)
    game = l2ljax.make_game(net, method, data, eps=eps, batch_size=128, **players)
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)

    # One row a seed: its state, its order of the images, its key. The images are shared.
    states = jax.tree.map(lambda *one: jnp.stack(one), *(game.init(seed) for seed in seeds))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    step = jax.jit(jax.vmap(game.train_step, in_axes=(0, None, None, 0, None, 0)))
    for epoch in range(epochs):
        orders = jnp.stack([jnp.asarray(epoch_order(s, epoch, 0, len(x))) for s in seeds])
        first = jnp.int32(epoch * game.steps_per_epoch)
        for _ in range(game.steps_per_epoch):
            states, metrics = step(states, x, y, orders, first, keys)
        print(f"epoch {epoch + 1}: loss", [f"{loss:.3f}" for loss in metrics["theta/loss"]])

    x, y = scale(jnp.asarray(data.x_test)), jnp.asarray(data.y_test)
    classify = jax.vmap(lambda theta, stats: game.frozen(theta, stats)(x).argmax(-1) == y)
    return classify(states.theta, states.theta_stats).mean(-1)


if __name__ == "__main__":
    print("clean accuracy of each seed:", [f"{share:.1%}" for share in main()])
