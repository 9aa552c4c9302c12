"""The recipes of the papers that this library is about, and that of TRADES."""

from l2ljax.runs.recipes.base import Recipe

L2L_V1 = Recipe(
    """The paper's first version (sections 3.1-3.3), eps 0.03 (SVHN 0.05).

    python experiments/train.py --recipe=l2l_v1 --dataset=cifar10 --method=plain
    python experiments/train.py --recipe=l2l_v1 --dataset=cifar10 --method=grad_l2l \\
        --attacker=slim --init_from=runs/cifar10-plain-0

Expected, quoted from the paper's Table 2 (CIFAR-10, mean of 5 seeds; PGM-10 at eps 0.03): Plain
94.49 clean; PGM Net 85.92 clean, 40.69 PGM-10; Grad L2L slim 83.25 and 39.33, wide 86.92 and
47.90; 2-Step L2L wide 71.65 and 51.47. Not measured here: it needs a GPU.

The paper is silent on batch size and augmentation: 128, pad-crop-flip (none on SVHN). Plain nets
follow Zagoruyko's recipe. FGSM and PGM nets have the fixed rate 0.01.
""",
    all={
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
    },
    dataset={
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
    },
    method={
        "plain": {
            "epochs": 200,
            "theta_opt": "nesterov",
            "theta_wd": 5e-4,
            "theta_drops": "60,120,160",
            "theta_drop_factor": 0.2,
        },
        "fgsm": {"theta_lr": 0.01, "theta_schedule": "constant"},
        "pgm": {"theta_lr": 0.01, "theta_schedule": "constant"},
    },
    dataset_method={
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
    },
    needs_init=True,
)


L2L_CODE = Recipe(
    """The settings of the authors' released code (train_l2l_1_cifar10.py), eps 0.031.

    python experiments/train.py --recipe=l2l_code --dataset=cifar10 --method=grad_l2l

Expected: the repository holds no results, and the paper's later tables could not be obtained.
One thing is ours: the checkpoint is chosen on a validation split; the code took the test set.
The code counts epochs from 1, so that its "from epoch 30" is a drop after 29 whole epochs here.
""",
    all={
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
    },
    method={
        "pgm": {"attacker_start": "gaussian", "craft_bn": "eval"},
        "kstep_l2l": {"inner_step": "0.007"},
    },
)


INTERP = Recipe(
    """L2L on adversarial interpolation, from the authors' scripts.

    python experiments/train.py --method=grad_l2l_interp --dataset=cifar10
    python experiments/train.py --method=two_step_l2l_interp --dataset=cifar10

Expected: the repository holds no results, and its users could not reproduce what was said of them;
judge these by AutoAttack. Not measured here at this size: it needs a GPU. Epochs are counted from 1
in the code, so that its drops at 60 and 90 come one whole epoch earlier here; with 76 epochs the
second one never comes.
""",
    all={
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
    },
    method={"two_step_l2l_interp": {"epochs": 300, "theta_drops": "29,59,89"}},
)


TRADES = Recipe(
    """TRADES as its authors train it (Zhang et al. 2019).

    python experiments/train.py --method=trades --dataset=cifar10
    python experiments/train.py --method=trades --dataset=mnist --recipe=trades

Expected, quoted from RobustBench: 84.92 clean, 53.08 AutoAttack at eps 0.031 (CIFAR-10, WRN-34-10).
Not measured here: it needs a GPU. CIFAR-100 and SVHN are not theirs.
""",
    all={
        "model": "wrn-34-10",
        "eps": "0.031",
        "inner_step": "0.007",
        "craft_bn": "eval",
        "epochs": 76,
        "theta_lr": 0.1,
        "theta_schedule": "piecewise",
        "theta_drops": "74",
        "theta_wd": 2e-4,
    },
    dataset={
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
    },
    dataset_method={
        ("mnist", "trades"): {"inner_steps": 40, "trades_beta": 1.0},
        ("mnist", "rnn_trades"): {"inner_steps": 40, "trades_beta": 1.0},
    },
)


RNN = Recipe(
    """The RNN-learned inner optimiser, our reconstruction.

    python experiments/train.py --method=rnn_adv --dataset=cifar10
    python experiments/train.py --method=rnn_trades --dataset=cifar10 --model=wrn-34-10 --eps=0.031

Expected: nothing to quote, the paper's tables could not be obtained; these settings are those of
TRADES, with the cell of the group's earlier learned optimiser. Not measured here: it needs a GPU.
""",
    all={
        "model": "preact_resnet18",
        "eps": "8/255",
        "inner_step": "2/255",
        "craft_bn": "eval",
        "epochs": 100,
        "theta_lr": 0.1,
        "theta_schedule": "piecewise",
        "theta_drops": "74,89",
        "theta_wd": 2e-4,
    },
    dataset={
        "svhn": {"theta_lr": 0.01},
        "mnist": {
            "model": "small_cnn",
            "eps": "0.3",
            "inner_step": "0.01",
            "theta_lr": 0.01,
            "theta_schedule": "constant",
            "theta_wd": 0.0,
        },
    },
    dataset_method={
        ("mnist", "rnn_adv"): {"inner_steps": 40},
        ("mnist", "rnn_trades"): {"inner_steps": 40, "trades_beta": 1.0},
    },
)
