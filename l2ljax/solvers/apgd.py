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
from l2ljax.ball import box, project, start_of
from l2ljax.target import repeat
from l2ljax.types import Inner, Solver, no_phi


def apgd(steps: int, start: str) -> Solver:
    """delta = the iterate of highest ell among the start and `steps` steps; a constant to theta.

    `steps` gradients, each with its loss by one pass forth and back, and one forward pass more: of
    the last iterate only the loss is asked.
    """
    checks, starting = windows(steps), start_of(start)

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        theta, window = stop_gradient(theta), jnp.asarray(checks)

        def inside(delta):
            return box(x, project(delta, eps))

        def step(carry):
            i, s, ell = carry
            delta = move(s, i, jnp.sign(s.u), inside)

            def climbed(x_adv):
                loss, seen = ell.look(theta, x_adv)
                return loss.sum(), (loss, seen)

            u, (loss, ell) = jax.grad(climbed, has_aux=True)(x + delta)
            return i + 1, judge(s, i, delta, u, loss, window[i]), ell

        s = begin(inside(starting(rng, x, eps)), eps)
        i, s, ell = repeat(step, (jnp.array(0), s, ell), steps)
        last = move(s, i, jnp.sign(s.u), inside)
        loss, ell = ell.look(theta, x + last)
        better = (loss > s.best_loss).reshape(s.step_size.shape)
        return Inner(jnp.where(better, last, s.best), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero")
