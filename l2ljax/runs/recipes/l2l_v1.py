"""Recipe l2l_v1: the paper's first version (sections 3.1-3.3), eps 0.03 (SVHN 0.05).

    python experiments/train.py --recipe=l2l_v1 --dataset=cifar10 --method=plain
    python experiments/train.py --recipe=l2l_v1 --dataset=cifar10 --method=grad_l2l \
        --attacker=slim --init_from=runs/cifar10-plain-0

Expected, quoted from the paper's Table 2 (CIFAR-10, mean of 5 seeds; PGM-10 at eps 0.03): Plain
94.49 clean; PGM Net 85.92 clean, 40.69 PGM-10; Grad L2L slim 83.25 and 39.33, wide 86.92 and
47.90; 2-Step L2L wide 71.65 and 51.47. Not measured here: it needs a GPU.

The paper is silent on batch size and augmentation: 128, pad-crop-flip (none on SVHN). Plain nets
follow Zagoruyko's recipe. FGSM and PGM nets have the fixed rate 0.01.
"""

ALL = {
    "model": "wrn-34-4",
    "eps": "0.03",
    "inner_step": "0.01",
    "order": "simultaneous",
    "epochs": 40,
    "theta_opt": "sgd",
    "theta_lr": 0.1,
    "theta_schedule": "piecewise",
    "theta_drops": "30",
    "theta_wd": 1e-4,
    "phi_opt": "sgd",
    "phi_lr": 0.1,
    "phi_schedule": "piecewise",
    "phi_drops": "30",
    "phi_wd": 1e-4,
}

DATASET = {
    "svhn": {
        "eps": "0.05",
        "theta_opt": "adam",
        "theta_lr": 2e-4,
        "theta_b2": 0.99,
        "phi_opt": "adam",
        "phi_lr": 1e-3,
        "phi_b2": 0.99,
        "phi_schedule": "constant",
    },
}

METHOD = {
    "plain": {
        "epochs": 200,
        "theta_opt": "nesterov",
        "theta_wd": 5e-4,
        "theta_drops": "60,120,160",
        "theta_drop_factor": 0.2,
    },
    "fgsm": {"theta_lr": 0.01, "theta_schedule": "constant"},
    "pgm": {"theta_lr": 0.01, "theta_schedule": "constant"},
}

DATASET_METHOD = {
    ("cifar10", "plain"): {"augment": "reflect_crop_flip"},
    ("cifar100", "plain"): {"augment": "reflect_crop_flip"},
    # Section 3.1 of the paper names the rate and the epochs; the drops are our choice.
    ("svhn", "plain"): {
        "epochs": 160,
        "theta_opt": "sgd",
        "theta_lr": 0.1,
        "theta_wd": 1e-4,
        "theta_drops": "80,120",
        "theta_drop_factor": 0.1,
    },
    ("svhn", "fgsm"): {"theta_opt": "sgd"},
    ("svhn", "pgm"): {"theta_opt": "sgd"},
}

NEEDS_INIT = True
