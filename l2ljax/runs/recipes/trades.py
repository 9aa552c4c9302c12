"""Recipe trades: TRADES as its authors train it (Zhang et al. 2019).

    python experiments/train.py --method=trades --dataset=cifar10
    python experiments/train.py --method=trades --dataset=mnist --recipe=trades

Expected, quoted from RobustBench: 84.92 clean, 53.08 AutoAttack at eps 0.031 (CIFAR-10, WRN-34-10).
Not measured here: it needs a GPU. CIFAR-100 and SVHN are not theirs.
"""

ALL = {
    "model": "wrn-34-10",
    "eps": "0.031",
    "inner_step": "0.007",
    "craft_bn": "eval",
    "epochs": 76,
    "theta_lr": 0.1,
    "theta_schedule": "piecewise",
    "theta_drops": "74",
    "theta_wd": 2e-4,
}

DATASET: dict[str, dict] = {
    "svhn": {"theta_lr": 0.01},
    "mnist": {
        "model": "small_cnn",
        "eps": "0.3",
        "inner_step": "0.01",
        "epochs": 100,
        "theta_lr": 0.01,
        "theta_schedule": "constant",
        "theta_wd": 0.0,
    },
}

METHOD: dict[str, dict] = {}

DATASET_METHOD: dict[tuple[str, str], dict] = {
    ("mnist", "trades"): {"inner_steps": 40, "trades_beta": 1.0},
    ("mnist", "rnn_trades"): {"inner_steps": 40, "trades_beta": 1.0},
}

NEEDS_INIT = False
