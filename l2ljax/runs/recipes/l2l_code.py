"""Recipe l2l_code: the settings of the authors' released code (train_l2l_1_cifar10.py), eps 0.031.

    python experiments/train.py --recipe=l2l_code --dataset=cifar10 --method=grad_l2l

Expected: the repository holds no results, and the paper's later tables could not be obtained.
One thing is ours: the checkpoint is chosen on a validation split; the code took the test set.
The code counts epochs from 1, so that its "from epoch 30" is a drop after 29 whole epochs here.
"""

ALL = {
    "model": "wrn-34-10",
    "attacker": "wide",
    "eps": "0.031",
    "inner_step": "0.003",
    "order": "alternating",
    "craft_bn": "update",
    "epochs": 76,
    "theta_opt": "sgd",
    "theta_lr": 0.1,
    "theta_schedule": "piecewise",
    "theta_drops": "29,59",
    "theta_wd": 2e-4,
    "phi_opt": "adam",
    "phi_lr": 1e-3,
    "phi_wd": 2e-4,
}

DATASET: dict[str, dict] = {}

METHOD = {
    "pgm": {"attacker_start": "gaussian", "craft_bn": "eval"},
    "kstep_l2l": {"inner_step": "0.007"},
}

DATASET_METHOD: dict[tuple[str, str], dict] = {}

NEEDS_INIT = False
