"""Two recipes for a CPU: small nets, few epochs."""

from l2ljax.runs.recipes.base import Recipe

LARGE = {"model": "wrn-10-1", "attacker": "two_layer", "epochs": 5}
# The best of 30 trials each on the validation split, trial 16 of grad_l2l and trial 4 of pgm in
# experiments/search.py; results/digits_tuned.md has the test.
LEARNED = {
    "attacker": "two_layer",
    "attack_loss": "margin",
    "grad_norm": "sign",
    "batch_size": 64,
    "label_smoothing": 0.3,
    "theta_lr": 0.4,
    "phi_lr": 3e-3,
    "phi_wd": 0.0,
}
HAND_MADE = {
    "attack_loss": "margin",
    "clean_mix": False,
    "craft_bn": "eval",
    "batch_size": 64,
    "ema_decay": 0.99,
    "label_smoothing": 0.1,
    "theta_lr": 0.2,
    "theta_schedule": "cosine",
    "theta_wd": 2e-3,
}
START = {"attacker_start": "uniform"}

QUICK = Recipe(
    """Small nets for a CPU. Digits in under a minute, CIFAR-10 in about 15.

    python experiments/train.py --recipe=quick --dataset=digits --method=grad_l2l
    python experiments/train.py --recipe=quick --dataset=cifar10 --method=grad_l2l

The attackers are an eighth of the paper's width (`--attacker_width=0.125`): a quick run shows that
things work and how they compare, not the paper's figures. Measured with the second command (seed 0,
jax 0.10.2, 14 minutes of processor time on two cores of an AMD EPYC), 10,000 test images: the best
epoch on validation clean 41.8 %, FGSM 28.3 %, PGM-10 27.4 %; the last 45.2, 29.0 and 27.6 %.
""",
    all={
        "model": "wrn-10-2",
        "attacker": "wide",
        "attacker_width": 0.125,
        "eps": "8/255",
        "inner_step": "2/255",
        "epochs": 30,
        "theta_lr": 0.1,
        "theta_schedule": "cyclic",
        "theta_wd": 5e-4,
        "phi_schedule": "constant",
    },
    dataset={
        "digits": {"eps": "0.2", "inner_step": "0.05"},
        "mnist": LARGE | {"eps": "0.3", "inner_step": "0.075"},
        "fashion_mnist": LARGE | {"eps": "0.1", "inner_step": "0.025"},
        "cifar10": LARGE,
        "cifar100": LARGE,
        "svhn": LARGE,
    },
    dataset_method={
        ("digits", "fgsm"): HAND_MADE,
        ("digits", "pgm"): HAND_MADE | START,
        ("digits", "naive_l2l"): LEARNED,
        ("digits", "grad_l2l"): LEARNED | START,
        ("digits", "two_step_l2l"): LEARNED | START,
        ("digits", "multistep_l2l"): LEARNED | START,
        ("digits", "kstep_l2l"): LEARNED | START,
    },
)


SMALL = Recipe(
    """The comparison that a CPU carries: 5,000 CIFAR-10 images, small nets, ten epochs.

    python experiments/train.py --recipe=small --dataset=cifar10 --method=grad_l2l
    python experiments/train.py --recipe=small --dataset=cifar10 --method=fast_at --eps=16/255

Expected: results/cifar10_small.md, one seed: 14 to 22 % under quick AutoAttack at 8/255. All
methods share the classifier (WRN-10-1), the rate and the epochs; the attackers have an eighth of
the paper's width.
""",
    all={
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
    },
)
