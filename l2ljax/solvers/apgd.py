"""Auto-PGD as an inner optimiser: the strongest hand-made one (Croce and Hein 2020).

The control for the claim that a better inner optimiser makes a better model: as many gradients as
PGM with as many steps, but momentum, a step size that each image finds for itself, and the best
iterate instead of the last. The climb is the attack's (`l2ljax.auto_pgd`), which goes on to look
for misclassified points; here the loss decides.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.auto_pgd import begin, judge, move, windows
from l2ljax.ball import STARTS, box, project
from l2ljax.inner_loop import repeat
from l2ljax.types import Inner, Solver, no_phi


def apgd(steps: int, start: str) -> Solver:
    """delta = the iterate of highest ell among the start and `steps` steps; a constant to theta.

    `steps` gradients, each with its loss by one pass forth and back, and one forward pass more: of
    the last iterate only the loss is asked.
    """
    checks = windows(steps)

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        theta, window = stop_gradient(theta), jnp.asarray(checks)

        def inside(delta):
            return box(x, project(delta, eps))

        def climbed(x_adv):
            loss = ell(theta, x_adv)
            return loss.sum(), loss

        def step(carry):
            i, s = carry
            delta = move(s, i, jnp.sign(s.u), inside)
            u, loss = jax.grad(climbed, has_aux=True)(x + delta)
            return i + 1, judge(s, i, delta, u, loss, window[i])

        s = begin(inside(STARTS[start](rng, x, eps)), eps)
        i, s = repeat(step, (jnp.array(0), s), steps)
        last = move(s, i, jnp.sign(s.u), inside)
        better = ell(theta, x + last) > s.best_loss
        return Inner(jnp.where(better.reshape(s.step_size.shape), last, s.best))

    return Solver(no_phi, solve)
