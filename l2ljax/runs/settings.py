"""The tables of settings: everything that a training run may be told.

The settings of COMMON, and those of the methods, decide the outcome of a run. What a method, a
model or a data set of the user's own takes besides is read off its signature. The OPTIONS say how
a run is carried out: where it is written, how often it is saved, on which devices.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from l2ljax import data
from l2ljax.data import AUGMENTS, DATASETS
from l2ljax.errors import InputError
from l2ljax.methods import METHODS, check_method
from l2ljax.models import ATTACKERS, MODELS
from l2ljax.parallel import KINDS
from l2ljax.plugins import Plugins, split
from l2ljax.runs.recipes import RECIPES
from l2ljax.schedules import OPTIMISERS, SCHEDULES
from l2ljax.settings import Setting, settings_of

ON_OVERFITTING = ("warn", "stop", "rollback")
"""Say so | end the run with its last good epoch | go back to that epoch (see diagnostics.py)."""

OWN_FILE = "or FILE.py:NAME of your own"

WHAT = [
    Setting("method", str, f"the method: {' | '.join(METHODS)}, {OWN_FILE}", "grad_l2l"),
    Setting(
        "dataset",
        str,
        f"{' | '.join(DATASETS)} | npz:PATH | folder:PATH | tfds:NAME, {OWN_FILE}",
        "digits",
    ),
    Setting(
        "recipe",
        str,
        f"the settings to start from: {' | '.join(RECIPES)}, {OWN_FILE}; quick on digits, "
        "elsewhere the method's own",
    ),
    Setting(
        "train_size",
        int,
        "use only so many training images, the first ones, of npz:PATH every class its share; all",
        bounds="> 0",
    ),
    Setting(
        "val_size",
        int,
        "images of the training set held out for selection, of npz:PATH every class its share; "
        "0: none, and the last epoch is taken; min(1000, 10 %)",
    ),
    Setting("init_from", str, "a run's workdir whose best classifier is theta's start", ""),
    *data.SETTINGS,
]

GAME = [
    Setting("eps", "fraction", "radius of the l_inf ball on the [0, 1] scale; 8/255 is accepted"),
    Setting("eps_warmup", float, "epochs over which eps grows from 0 to its value", bounds=">= 0"),
    Setting("phi_steps", int, "moves of phi per move of theta (alternating order)", bounds="> 0"),
    Setting(
        "craft_bn",
        ("batch", "update", "eval"),
        "theta's BatchNorm while the attack is made: the batch's own, the same and kept, running",
    ),
    Setting("on_overfitting", ON_OVERFITTING, "when PGD-10 accuracy collapses under FGSM's"),
]

PLAYERS = [
    Setting("model", str, f"{' | '.join(MODELS)}, {OWN_FILE}"),
    Setting(
        "dropout",
        float,
        "dropout rate of wrn-D-K and small_cnn; the network's own",
        bounds="[0, 1)",
    ),
    Setting("bf16", bool, "compute in bfloat16; parameters, statistics and losses stay float32"),
    Setting("remat", bool, "keep less for the backward pass: residual blocks, the RNN's loop"),
    Setting("attacker", str, f"the network g: {' | '.join(ATTACKERS)}, {OWN_FILE}"),
    Setting(
        "attacker_width",
        float,
        "width of g relative to the paper's (1); a CPU run uses 0.125",
        bounds="> 0",
    ),
]

TIME = [
    Setting("epochs", int, "passes over the training set", bounds="> 0"),
    Setting("batch_size", int, "images per step, over all devices", bounds="> 0"),
    Setting(
        "accumulate",
        int,
        "parts of a batch: gradients are averaged, BatchNorm sees one part",
        bounds="> 0",
    ),
    Setting(
        "augment",
        str,
        f"augmentation, inside the compiled step: {' | '.join(AUGMENTS)}, {OWN_FILE}; the "
        "dataset's own",
    ),
    Setting(
        "ema_decay",
        float,
        "decay per step of theta's moving average; 0 keeps none",
        bounds="[0, 1)",
    ),
]
for player in ("theta", "phi"):
    TIME += [
        Setting(f"{player}_opt", OPTIMISERS, f"{player}'s optimiser"),
        Setting(
            f"{player}_lr",
            float,
            f"{player}'s peak learning rate",
            bounds="> 0" if player == "theta" else ">= 0",
        ),
        Setting(f"{player}_schedule", SCHEDULES, f"shape of {player}'s learning rate"),
        Setting(
            f"{player}_peak_at",
            float,
            "where a cyclic schedule peaks, as a share of the run",
            bounds="[0, 1]",
        ),
        Setting(f"{player}_drops", str, "epochs of the drops of a piecewise schedule, as 30,60"),
        Setting(f"{player}_drop_factor", float, "factor of every drop", bounds=">= 0"),
        Setting(f"{player}_momentum", float, "momentum, or Adam's beta 1", bounds="[0, 1)"),
        Setting(f"{player}_b2", float, "Adam's beta 2", bounds="[0, 1)"),
        Setting(f"{player}_wd", float, "weight decay, added to the gradient", bounds=">= 0"),
        Setting(f"{player}_clip", float, "bound on the gradient's norm; 0 is none", bounds=">= 0"),
    ]

COMMON = [*WHAT, *GAME, *PLAYERS, *TIME]
"""What every run has a value for, besides the settings of its method."""


def method_settings() -> dict[str, Setting]:
    """The settings of all the package's methods, each once."""
    return {s.name: s for function in METHODS.values() for s in settings_of(function)}


def table(plugins: Plugins | None = None, words: Mapping[str, Any] | None = None) -> list[Setting]:
    """Every setting that may be given beside these words, a method or a model of the user's own."""
    known = {s.name: s for s in COMMON} | method_settings()
    return list(known.values()) if plugins is None else with_plugins(known.values(), plugins, words)


def with_plugins(
    known: Iterable[Setting], plugins: Plugins, words: Mapping[str, Any] | None
) -> list[Setting]:
    """These settings, and what the things of the user's own that the words name take besides."""
    found = {s.name: s for s in known}
    for kind in ("method", "model", "dataset", "attacker"):
        text = (words or {}).get(kind)
        if split(text) is None:
            continue
        for setting in own_settings(kind, plugins.find(kind, str(text), {})):
            other = found.setdefault(setting.name, setting)
            if other.kind != setting.kind:
                raise InputError(
                    f"{text} takes {setting.name} as {_kind_name(setting)}, and --{setting.name} "
                    f"is {_kind_name(other)} already: give the keyword another name"
                )
    return list(found.values())


def own_settings(kind: str, thing: Any) -> list[Setting]:
    """What a method, a model, a data set or an attacker of the user's own takes."""
    if kind == "method":
        return settings_of(check_method(thing))
    return settings_of(thing, all_said=False) if callable(thing) else []


def _kind_name(setting: Setting) -> str:
    kind = setting.kind
    return (
        " | ".join(map(str, kind)) if isinstance(kind, tuple) else getattr(kind, "__name__", kind)
    )


METHOD_NAMES = set(method_settings())
"""The settings that only some methods take; for the others they have no value."""

OPTIONS = [
    Setting(
        "data_dir", str, "archives, unpacked folders or a prepared tfds tree; downloads go here"
    ),
    Setting("download", bool, "fetch a dataset that is not in data_dir", True),
    Setting("final_attacks", str, "attacks on the test set at the end", "clean,fgsm,pgm10"),
    Setting(
        "select_check",
        int,
        "validation images on which quick AutoAttack checks the best; 0: none",
        0,
        ">= 0",
    ),
    Setting(
        "diagnose",
        int,
        "validation images for the attacker's diagnostics, an epoch; training ones if --val_size=0",
        128,
        ">= 0",
    ),
    Setting("eval_batch", int, "images per batch in validation and evaluation", 250, "> 0"),
    Setting("validate_every", int, "epochs between validations; the last is one", 1, "> 0"),
    Setting(
        "parallel",
        KINDS,
        "one device | the step on every device, its rows each | one program, its batch sharded; "
        "sharding where there are several devices",
    ),
    Setting(
        "steps_per_call",
        int,
        "steps of one compiled call; 1 on a CPU, up to 50 elsewhere",
        bounds="> 0",
    ),
    Setting("data_on", ("device", "host"), "where the images stay; on the device if they fit"),
    Setting(
        "profile", bool, "trace ten steps: WORKDIR/profile for TensorBoard, and a table", False
    ),
    Setting(
        "log_every",
        int,
        "steps between lines in metrics.jsonl within an epoch; 0: none",
        50,
        ">= 0",
    ),
    Setting("checkpoint_every", int, "epochs between checkpoints", 1, "> 0"),
    Setting(
        "checkpoint_minutes",
        float,
        "minutes after which a checkpoint is due anyway",
        10.0,
        "> 0",
    ),
    Setting("tensorboard", bool, "write TensorBoard event files; if the extra plots is installed"),
]
"""How a run is carried out. None of these decides its outcome."""
