"""Recipe interp: L2L on adversarial interpolation, from the authors' scripts.

    python experiments/train.py --method=grad_l2l_interp --dataset=cifar10
    python experiments/train.py --method=two_step_l2l_interp --dataset=cifar10

Expected: the repository holds no results, and its users could not reproduce what was said of them;
judge these by AutoAttack. Not measured here at this size: it needs a GPU. Epochs are counted from 1
in the code, so that its drops at 60 and 90 come one whole epoch earlier here; with 76 epochs the
second one never comes.
"""

ALL = {
    "model": "wrn-34-10",
    "attacker": "wide",
    "eps": "0.031",
    "craft_bn": "eval",
    "epochs": 76,
    "theta_lr": 0.1,
    "theta_schedule": "piecewise",
    "theta_drops": "59",
    "theta_wd": 2e-4,
    "phi_lr": 1e-3,
    "phi_wd": 2e-4,
}

DATASET: dict[str, dict] = {}

METHOD: dict[str, dict] = {"two_step_l2l_interp": {"epochs": 300, "theta_drops": "29,59,89"}}

DATASET_METHOD: dict[tuple[str, str], dict] = {}

NEEDS_INIT = False
