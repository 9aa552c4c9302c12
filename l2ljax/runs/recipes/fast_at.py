"""Recipe fast_at: Fast-AT as its authors train it (Wong et al. 2020).

    python experiments/train.py --method=fast_at --dataset=cifar10 --on_overfitting=stop

Expected, quoted: 83.34 clean and 43.21 AutoAttack (RobustBench's entry of the released weights);
users who run the released script report 79.3-79.5 clean and 44.9-45.3 under PGD. Not measured here:
it needs a GPU. Their early stop compares PGD-5 on a training batch; ours is the guard
(--on_overfitting) on the validation split. CIFAR-100 and SVHN are not theirs: the same settings,
for SVHN the rate of GradAlign's authors.
"""

ALL = {
    "model": "preact_resnet18",
    "eps": "8/255",
    "craft_bn": "update",
    "epochs": 15,
    "theta_lr": 0.2,
    "theta_schedule": "cyclic",
    "theta_wd": 5e-4,
}

DATASET: dict[str, dict] = {
    "svhn": {"theta_lr": 0.05},
    "mnist": {
        "model": "small_cnn",
        "eps": "0.3",
        "epochs": 10,
        "batch_size": 100,
        "theta_opt": "adam",
        "theta_lr": 5e-3,
        "theta_peak_at": 0.4,
        "theta_wd": 0.0,
    },
}

METHOD: dict[str, dict] = {}

DATASET_METHOD: dict[tuple[str, str], dict] = {}

NEEDS_INIT = False
