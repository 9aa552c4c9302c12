"""Recipe small: the comparison that a CPU carries: 5,000 CIFAR-10 images, small nets, ten epochs.

    python experiments/train.py --recipe=small --dataset=cifar10 --method=grad_l2l
    python experiments/train.py --recipe=small --dataset=cifar10 --method=fast_at --eps=16/255

Expected: results/cifar10_small.md, one seed: 14 to 22 % under quick AutoAttack at 8/255. All
methods share the classifier (WRN-10-1), the rate and the epochs; the attackers have an eighth of
the paper's width.
"""

ALL = {
    "model": "wrn-10-1",
    "attacker": "wide",
    "attacker_width": 0.125,
    "train_size": 5000,
    "val_size": 500,
    "eps": "8/255",
    "inner_step": "2/255",
    "epochs": 10,
    "theta_lr": 0.1,
    "theta_schedule": "cyclic",
    "theta_wd": 5e-4,
}

DATASET: dict[str, dict] = {}

METHOD: dict[str, dict] = {}

DATASET_METHOD: dict[tuple[str, str], dict] = {}

NEEDS_INIT = False
