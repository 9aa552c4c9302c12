# pyright: reportMissingImports=false
"""The official attacks, of the package pyautoattack, with their chance taken out or written down.

    fallen = apgd_ce(model, x, y, start, eps=8/255, norm="linf", steps=100)
    fallen, start, draws = square(model, x, y, eps=8/255, norm="linf", queries=5000, seed=0)
    result = standard(model, x, y, eps=8/255, norm="linf", seed=0, batch_size=250)

`model` is a torch module on NCHW (`twin`, `bridge`); x [N, H, W, C] and y are NumPy, all of x are
rightly classified and go in as one batch. The official code is subclassed, never rewritten: its own
loops, checks and acceptance run. FAB-T draws nothing, so there is nothing to take out.
"""

import logging
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from official.bridge import nchw, nhwc

NORM: dict[str, Any] = {"linf": "Linf", "l2": "L2"}
"""Their names of the norms."""

P_INIT = 0.8
"""What AutoAttack passes to Square, beside `resc_schedule=False`."""


class Budget(NamedTuple):
    """How long each attack tries: the numbers of `standard`; a test takes less."""

    apgd_steps: int = 100
    fab_steps: int = 100
    targets: int = 9
    square_queries: int = 5000


OFFICIAL = Budget()


def _torch(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    return nchw(x), torch.from_numpy(np.asarray(y, np.int64))


class _Started(APGDAttack):
    """APGD from the points given in `starts`."""

    starts: Any = None

    def attack_single_run(self, x, y, x_init=None):
        """Their run, from our start."""
        return super().attack_single_run(x, y, x_init=self.starts)


class _StartedTargeted(APGDAttack_targeted):
    """The same for every target: `starts` is [targets, N, C, H, W]; fallen images drop out."""

    starts: Any = None
    standing: Any = None
    target = 0

    def attack_single_run(self, x, y, x_init=None):
        """Their run on the images that still stand, from our starts."""
        found = super().attack_single_run(x, y, x_init=self.starts[self.target][self.standing])
        self.standing = self.standing[found[1].bool()]
        self.target += 1
        return found


def apgd_ce(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    *,
    eps: float,
    norm: str,
    steps: int,
) -> np.ndarray:
    """APGD-CE from x + start."""
    attack = _Started(model, n_iter=steps, norm=NORM[norm], eps=eps, loss="ce", device="cpu")
    attack.starts = nchw(x + start)
    return nhwc(attack.perturb(*_torch(x, y)))


def apgd_t(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    starts: np.ndarray,
    *,
    eps: float,
    norm: str,
    steps: int,
) -> np.ndarray:
    """APGD-T from x + starts[k] towards the class of rank 2 + k."""
    attack = _StartedTargeted(
        model,
        n_iter=steps,
        norm=NORM[norm],
        eps=eps,
        n_target_classes=len(starts),
        device="cpu",
        logger=logging.getLogger("auto-attack"),
    )
    attack.starts = torch.stack([nchw(x + start) for start in starts])
    attack.standing = torch.arange(len(x))
    return nhwc(attack.perturb(*_torch(x, y)))


def fab_t(
    model: Any, x: np.ndarray, y: np.ndarray, *, eps: float, norm: str, steps: int, targets: int
) -> np.ndarray:
    """FAB-T: without restarts it begins at x itself."""
    attack = FABAttack_PT(
        model,
        norm=NORM[norm],
        n_iter=steps,
        eps=eps,
        targeted=True,
        n_target_classes=targets,
        device="cpu",
    )
    return nhwc(attack.perturb(*_torch(x, y)))


class _Recorded(SquareAttack):
    """Square that writes down its start and, step by step, what it drew for which images."""

    first: Any = None

    def attack_single_run(self, x, y):
        """Their run, written down."""
        self.standing, self.count = torch.arange(len(x)), len(x)
        self.corners: list[int] = []
        self.signs: Any = None
        self.turned = False
        self.steps: list[tuple[list[int], Any, bool]] = []
        return super().attack_single_run(x, y)

    def random_int(self, *args, **kwargs):
        """A coordinate of a window."""
        drawn = super().random_int(*args, **kwargs)
        self.corners.append(int(drawn))
        return drawn

    def random_choice(self, shape):
        """Signs, of all images alike (l_inf) or of every standing one (l2)."""
        self.signs = super().random_choice(shape)
        return self.signs

    def eta(self, s):
        """The pattern of a window; whether it is turned is their next number above a half."""
        state = torch.random.get_rng_state()
        self.turned = bool(torch.rand([1]) > 0.5)
        torch.random.set_rng_state(state)
        return super().eta(s)

    def margin_and_loss(self, x, y):
        """One query; what was drawn since the last one made it."""
        found: Any = super().margin_and_loss(x, y)
        margin, loss = found
        if self.first is None:
            self.first = x.clone()
        else:
            signs = self.signs.flatten(-3)
            if signs.dim() == 2:
                signs = torch.ones(self.count, signs.shape[1]).index_copy(0, self.standing, signs)
            self.steps.append((self.corners, signs, self.turned))
        self.corners = []
        self.standing = self.standing[margin > 0]
        return margin, loss


def square(
    model: Any, x: np.ndarray, y: np.ndarray, *, eps: float, norm: str, queries: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """What Square found, where it began (a perturbation), and its draws by `attacks.square.Draws`.

    It stops when nothing stands; draws for the steps it left out are filled in and mean nothing.
    """
    attack = _Recorded(
        model,
        norm=NORM[norm],
        n_queries=queries,
        eps=eps,
        p_init=P_INIT,
        seed=seed,
        resc_schedule=False,
        device="cpu",
    )
    x_adv = nhwc(attack.perturb(*_torch(x, y)))
    corners = np.zeros((queries, 4 if norm == "l2" else 2, 1), np.int32)
    signs = np.ones((queries, len(x) if norm == "l2" else 1, x.shape[-1]), np.float32)
    turned = np.zeros((queries, 1), bool)
    for i, (corner, sign, turn) in enumerate(attack.steps):
        corners[i, :, 0], signs[i], turned[i] = corner, sign.numpy(), turn
    draws = {"row": corners[:, 0], "col": corners[:, 1], "sign": signs}
    if norm == "l2":
        draws |= {"row2": corners[:, 2], "col2": corners[:, 3], "turned": turned}
    return x_adv, nhwc(attack.first) - x, draws


class Standard(NamedTuple):
    """What `standard` left: adversarial images, which images stand, accuracy and seconds after each
    attack."""

    x_adv: np.ndarray
    robust: np.ndarray
    accuracy: dict[str, float]
    seconds: dict[str, float]


def standard(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    norm: str,
    seed: int,
    batch_size: int,
    budget: Budget = OFFICIAL,
) -> Standard:
    """The official cascade, free-running; seconds and accuracies are those that it logs."""
    suite = AutoAttack(model, eps=eps, norm=NORM[norm], seed=seed, version="standard")
    for attack in (suite.apgd, suite.apgd_targeted):
        # The windows of the check points follow from n_iter when an attack is made.
        fresh = APGDAttack(model, n_iter=budget.apgd_steps, eps=eps, norm=NORM[norm])
        for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            setattr(attack, name, getattr(fresh, name))
    suite.fab.n_iter = budget.fab_steps
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = budget.targets
    suite.square.n_queries = budget.square_queries
    lines: list[str] = []
    with _listening(lines):
        x_adv, _ = suite.run_standard_evaluation(*_torch(x, y), batch_size=batch_size)
    accuracy, seconds, before = {}, {}, 0.0
    for line in lines:
        if found := re.match(r"initial accuracy: ([\d.]+)%", line):
            accuracy["clean"] = float(found[1]) / 100
        if found := re.match(
            r"robust accuracy after (\S+): ([\d.]+)% \(total time ([\d.]+) s", line
        ):
            name = found[1].lower()
            accuracy[name], seconds[name] = float(found[2]) / 100, float(found[3]) - before
            before = float(found[3])
    with torch.no_grad():
        parts = zip(x_adv.split(batch_size), _torch(x, y)[1].split(batch_size), strict=True)
        robust = torch.cat([model(part).argmax(1) == labels for part, labels in parts])
    return Standard(nhwc(x_adv), robust.numpy(), accuracy, seconds)


class _listening(logging.Handler):
    """Collects what the official suite logs while it runs."""

    def __init__(self, lines: list[str]):
        super().__init__(logging.DEBUG)
        self.lines = lines
        self.logger = logging.getLogger("auto-attack")

    def emit(self, record):
        """Keep the line."""
        self.lines.append(record.getMessage())

    def __enter__(self):
        self.logger.addHandler(self)
        self.before = self.logger.level, self.logger.propagate
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)

    def __exit__(self, *_):
        self.logger.removeHandler(self)
        level, self.logger.propagate = self.before
        self.logger.setLevel(level)
