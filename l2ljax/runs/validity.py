"""Which values of the deciding flags can be: each alone, and beside the others."""

from typing import Any

from l2ljax.ball import length
from l2ljax.errors import InputError
from l2ljax.settings import step_size

POSITIVE = (
    "epochs",
    "batch_size",
    "accumulate",
    "train_size",
    "inner_steps",
    "phi_steps",
    "attacker_width",
    "theta_lr",
    "rnn_hidden",
    "rnn_bound",
)

NOT_NEGATIVE = (
    "eps_warmup",
    "phi_lr",
    "trades_beta",
    "ga_lambda",
    "noise",
    "bat_lambda",
    *(f"{p}_{name}" for p in ("theta", "phi") for name in ("drop_factor", "wd", "clip")),
)

BELOW_ONE = (
    "dropout",
    "label_smoothing",
    "ema_decay",
    *(f"{p}_{name}" for p in ("theta", "phi") for name in ("momentum", "b2")),
)


def check(config: dict[str, Any]) -> None:
    """A InputError for the first flag that cannot be, alone or beside another."""
    method = config["method"]
    for name in POSITIVE:
        if config[name] is not None and config[name] <= 0:
            raise InputError(f"--{name}={config[name]} must be positive")
    for name in NOT_NEGATIVE:
        if config[name] is not None and config[name] < 0:
            raise InputError(f"--{name}={config[name]} must not be negative")
    for name in BELOW_ONE:
        if config[name] is not None and not 0 <= config[name] < 1:
            raise InputError(f"--{name}={config[name]} must lie in [0, 1)")
    for name in ("theta_peak_at", "phi_peak_at", "interp_label"):
        if config[name] is not None and not 0 <= config[name] <= 1:
            raise InputError(f"--{name}={config[name]} must lie in [0, 1]")
    for name in ("inner_step", "bat_step"):
        if config[name] is not None and length(step_size(config[name]), 1.0) <= 0:
            raise InputError(f"--{name}={config[name]} must be positive")
    if config["val_size"] == 0 and config["on_overfitting"] != "warn":
        raise InputError(
            f"--on_overfitting={config['on_overfitting']} watches the validation images, and "
            "--val_size=0 holds none out"
        )
    if config["phi_steps"] > 1 and config["order"] == "simultaneous":
        raise InputError("--phi_steps above 1 needs --order=alternating")
    if config["remat"] and config["model"] in ("mlp", "small_cnn") and not method.startswith("rnn"):
        raise InputError(f"--remat: {config['model']} has no residual blocks to compute again")
