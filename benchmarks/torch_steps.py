# pyright: reportMissingImports=false
"""The training steps of the benchmark in plain PyTorch: Plain, PGM, Grad L2L, 2-Step L2L.

    step = make_step(config, f, g)          # f, g: torch modules in training mode
    loss = step(x, y)                       # gradients in .grad, then both players move

As a PyTorch user would write them: autograd for the input gradient, one backward pass for both
players, SGD with momentum and Adam with weight decay in the gradient; phi climbs by descending on
-gradient. BatchNorm uses the batch while the attack is made, as in ours. `move=False` leaves the
gradients and moves nobody.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy


def make_step(
    config: dict[str, Any], f: Callable, g: Callable | None, eps: float, step_size: float
) -> Callable[..., Any]:
    """step(x, y, move=True) -> loss of a configuration whose method is one of METHODS."""
    craft = METHODS[config["method"]]
    bf16, steps = config["bf16"], config["inner_steps"]
    theta = torch.optim.SGD(
        f.parameters(),
        lr=config["theta_lr"],
        momentum=config["theta_momentum"],
        weight_decay=config["theta_wd"],
    )
    phi = None
    if g is not None:
        rates = {"lr": config["phi_lr"], "betas": (config["phi_momentum"], config["phi_b2"])}
        phi = torch.optim.Adam(
            g.parameters(), weight_decay=config["phi_wd"], maximize=True, **rates
        )

    def slope(x, y):
        x = x.detach().requires_grad_()
        (u,) = torch.autograd.grad(cross_entropy(f(x).float(), y, reduction="sum"), x)
        return u

    def see(x, y):
        u = slope(x, y)
        return torch.cat([x, u / u.abs().max().clamp_min(torch.finfo(u.dtype).tiny)], 1)

    def step(x, y, move=True):
        for player in filter(None, (theta, phi)):
            player.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            delta = craft(x, y, see, slope, g, eps, step_size, steps)
            loss = cross_entropy(f(x + delta).float(), y)
            if config["clean_mix"]:
                loss = (cross_entropy(f(x).float(), y) + loss) / 2
        loss.backward()
        if move:
            for player in filter(None, (theta, phi)):
                player.step()
        return loss

    return step


def _box(x, delta):
    return torch.minimum(torch.maximum(delta, -x), 1 - x)


def _none(x, y, see, slope, g, eps, step_size, steps):
    return torch.zeros_like(x)


def _pgm(x, y, see, slope, g, eps, step_size, steps):
    delta = torch.zeros_like(x)
    for _ in range(steps):
        moved = delta + step_size * slope(x + delta, y).sign()
        delta = _box(x, moved.clamp(-eps, eps))
    return delta


def _grad(x, y, see, slope, g, eps, step_size, steps):
    return _box(x, eps * g(see(x, y)))


def _two_step(x, y, see, slope, g, eps, step_size, steps):
    first = eps * g(see(x, y))
    delta = _box(x, first)
    # The second call sees the moved image itself, through which phi's gradient passes.
    seen = see((x + delta).detach(), y)
    a = torch.cat([x + delta, seen[:, x.shape[1] :]], 1)
    return _box(x, (first + eps * g(a)).clamp(-eps, eps))


METHODS = {"plain": _none, "pgm": _pgm, "grad_l2l": _grad, "two_step_l2l": _two_step}
"""How each method makes its perturbation: (x, y, see, slope, g, eps, step_size, steps) -> delta."""
