"""Recipe fast_bat: the common setting of Fast-BAT's code for all fast methods (Zhang et al. 2022).

    python experiments/train.py --method=fast_bat --dataset=cifar10
    python experiments/train.py --method=fast_bat --dataset=cifar10 --eps=16/255
    python experiments/train.py --method=n_fgsm --dataset=cifar100 --recipe=fast_bat

Expected, quoted from the December 2021 text (CIFAR-10, 10 trials, another data split): Fast-BAT
79.43 clean, 48.74 PGD-50-10, 44.89 AutoAttack at 8/255, and 67.79, 26.15, 18.21 at 16/255; Fast-AT
81.72, 45.47, 41.97 and 46.02, 21.79, 12.57; with GradAlign 79.84, 47.43, 43.52 and 58.57, 26.22,
18.03. Not measured here: it needs a GPU. Their CIFAR-100 images are also turned by up to 15
degrees, which this package does not do.
"""

ALL = {
    "model": "preact_resnet18",
    "eps": "8/255",
    "craft_bn": "update",
    "epochs": 20,
    "theta_lr": 0.2,
    "theta_schedule": "cyclic",
    "theta_wd": 5e-4,
}

DATASET: dict[str, dict] = {"svhn": {"theta_lr": 0.05}}

METHOD: dict[str, dict] = {
    "pgd10": {
        "epochs": 200,
        "theta_lr": 0.1,
        "theta_schedule": "piecewise",
        "theta_drops": "100,150",
    },
}

DATASET_METHOD: dict[tuple[str, str], dict] = {
    ("svhn", "grad_align"): {"ga_lambda": 2.5},
}

NEEDS_INIT = False
