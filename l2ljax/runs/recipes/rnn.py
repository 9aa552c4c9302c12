"""Recipe rnn: the RNN-learned inner optimiser, our reconstruction.

    python experiments/train.py --method=rnn_adv --dataset=cifar10
    python experiments/train.py --method=rnn_trades --dataset=cifar10 --model=wrn-34-10 --eps=0.031

Expected: nothing to quote, the paper's tables could not be obtained; these settings are those of
TRADES, with the cell of the group's earlier learned optimiser. Not measured here: it needs a GPU.
"""

ALL = {
    "model": "preact_resnet18",
    "eps": "8/255",
    "inner_step": "2/255",
    "craft_bn": "eval",
    "epochs": 100,
    "theta_lr": 0.1,
    "theta_schedule": "piecewise",
    "theta_drops": "74,89",
    "theta_wd": 2e-4,
}

DATASET: dict[str, dict] = {
    "svhn": {"theta_lr": 0.01},
    "mnist": {
        "model": "small_cnn",
        "eps": "0.3",
        "inner_step": "0.01",
        "theta_lr": 0.01,
        "theta_schedule": "constant",
        "theta_wd": 0.0,
    },
}

METHOD: dict[str, dict] = {}

DATASET_METHOD: dict[tuple[str, str], dict] = {
    ("mnist", "rnn_adv"): {"inner_steps": 40},
    ("mnist", "rnn_trades"): {"inner_steps": 40, "trades_beta": 1.0},
}

NEEDS_INIT = False
