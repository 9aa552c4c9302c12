"""Recipe fastat_benchmark: the FastAT benchmark's setting (github.com/fzjcdt/FastAT_Benchmark).

    python experiments/train.py --method=n_fgsm --dataset=cifar10 --recipe=fastat_benchmark
    python experiments/train.py --method=pgd10 --dataset=cifar10 --recipe=fastat_benchmark

Expected, quoted (CIFAR-10, mean of 3 seeds, AutoAttack): PGD-AT with averaged weights 50.49,
GradAlign 47.99, N-FGSM 47.77, FGSM-RS 43.09. A number of ours may stand beside theirs only after
these two commands come out within one point. Not measured here: it needs a GPU. Their one-cycle
rate is a cyclic one with its peak at 0.3 of the run; the averages are of theta per step.
"""

ALL = {
    "model": "resnet18",
    "eps": "8/255",
    "craft_bn": "update",
    "epochs": 100,
    "theta_lr": 0.1,
    "theta_schedule": "cyclic",
    "theta_peak_at": 0.3,
    "theta_wd": 5e-4,
    "label_smoothing": 0.4,
    "ema_decay": 0.9995,
}

DATASET: dict[str, dict] = {}

# torchattacks' PGD sets eval mode while it crafts; the other methods there do not.
METHOD: dict[str, dict] = {"pgd10": {"craft_bn": "eval", "inner_step": "2/255"}}

DATASET_METHOD: dict[tuple[str, str], dict] = {}

NEEDS_INIT = False
