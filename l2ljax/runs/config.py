"""A configuration, and the folder of the run that has it: whose it is, and who may write there.

A configuration is a dict of every setting that decides the outcome. It is printed in full before a
run begins, written to config.json, and compared: a run is resumed only with the same one.
"""

import contextlib
import fcntl
import inspect
import json
import math
import os
import pathlib
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from l2ljax.data.batches import AUGMENTS
from l2ljax.errors import InputError
from l2ljax.methods import METHODS
from l2ljax.models import ATTACKERS, MODELS
from l2ljax.plugins import Plugins, split
from l2ljax.runs.recipes import DERIVED, default_recipe, find_recipe, layers_of
from l2ljax.runs.settings import COMMON, METHOD_NAMES, WHAT, method_settings, table
from l2ljax.settings import Setting, check_eps, fraction, settings_of


class Config(dict[str, Any]):
    """The settings of a run, and the files of the user's own that its words name."""

    def __init__(self, values: Mapping[str, Any], plugins: Plugins) -> None:
        """The values as a dict, which is what config.json holds."""
        super().__init__(values)
        self.plugins = plugins

    def __or__(self, other: Mapping[str, Any]) -> "Config":
        """The same configuration with other values."""
        return Config({**self, **other}, self.plugins)

    def find(self, kind: str, table: Mapping[str, Any]) -> Any:
        """The row of a table, or the thing in the user's own file, that a setting names."""
        return self.plugins.find(kind, self[kind], table)

    def method(self) -> Any:
        """The function that makes the method."""
        return self.find("method", METHODS)

    def model(self) -> Any:
        """The name of one of the package's models, or what makes one of the user's own."""
        text = self["model"]
        return text if split(text) is None else self.find("model", MODELS)

    def warn_if_plugins_changed(self, workdir: Any) -> None:
        """Say so where a file that the run was made with is not the file that is given now."""
        for file, digest in (self.get("plugins") or {}).items():
            now = self.plugins.sha256.get(file)
            if now not in (None, digest):
                warnings.warn(
                    f"{file} has changed since the run in {workdir} was made with it", stacklevel=3
                )

    def of(self, function: Any) -> dict[str, Any]:
        """The values of the settings that a function takes, as the numbers they stand for."""
        return {s.name: s.check(self[s.name], "--") for s in settings_of(function, all_said=False)}


def resolve(given: Mapping[str, Any], plugins: Plugins | None = None) -> Config:
    """Every deciding setting: as it is given, else the recipe's, else the method's own."""
    plugins = Plugins() if plugins is None else plugins
    given = {name: plugins.take(value) for name, value in given.items() if value is not None}
    what = {s.name: given.get(s.name, s.default) for s in WHAT}
    method, dataset = what["method"], what["dataset"]
    function = plugins.find("method", method, METHODS)
    recipe = what["recipe"] or default_recipe(dataset, method)
    found = find_recipe(recipe, plugins)
    layers = layers_of(found, dataset, method)
    given = {k: plugins.take(v) for k, v in layers.items() if split(v)} | given
    known = {s.name: s for s in table(plugins, layers | given | what)}
    config = Config(dict.fromkeys(known), plugins)
    config.update({s.name: s.default for s in known.values() if s.name not in METHOD_NAMES})
    config.update({s.name: s.default for s in settings_of(function) if s.default is not None})
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise InputError(f"recipe {recipe} has {unknown[0]}, which is no setting of these runs")
    config.update(layers)
    config.update({name: value for name, value in given.items() if name in known})
    config.update({name: value for name, value in what.items() if value is not None})
    config["recipe"] = recipe
    _leave_out_foreign(config, function, given)
    check_eps(config["eps"])
    for name, rule in DERIVED.items():
        if name in {s.name for s in settings_of(function)} and config[name] is None:
            config[name] = rule(fraction(config["eps"]))
    _check(config, known)
    if found.needs_init and method != "plain" and not config["init_from"]:
        name = short_name(dataset)
        raise InputError(
            f"recipe {recipe} starts from a Plain net: train one with --recipe={recipe} "
            f"--dataset={dataset} --method=plain, then add --init_from=runs/{name}-plain-0 "
            "(--init_from=none starts from scratch)"
        )
    config["plugins"] = plugins.words(config.values())
    return config


def _leave_out_foreign(config: Config, function: Any, given: Mapping[str, Any]) -> None:
    """No value for the settings that this method does not take; one that was given is refused."""
    own = {s.name for s in settings_of(function)}
    for name in METHOD_NAMES - own - {s.name for s in COMMON}:
        if name in given:
            takers = [m for m, f in METHODS.items() if name in {s.name for s in settings_of(f)}]
            raise InputError(f"--{name}: {config['method']} has none; {', '.join(takers)} have")
        config[name] = None


def _check(config: Config, known: Mapping[str, Setting]) -> None:
    """An InputError for the first setting that cannot be, alone or beside another."""
    for name, setting in known.items():
        setting.check(config[name], "--")
    for name in ("theta_drops", "phi_drops"):
        epochs(config[name], f"--{name}")
    config.find("attacker", ATTACKERS)
    if config["augment"] is not None:
        config.find("augment", AUGMENTS)
    if config["remat"] and not _can_remat(config):
        raise InputError(f"--remat: {config['model']} has no residual blocks to compute again")
    if config["val_size"] == 0 and config["on_overfitting"] != "warn":
        raise InputError(
            f"--on_overfitting={config['on_overfitting']} watches the validation images, and "
            "--val_size=0 holds none out"
        )
    if config["phi_steps"] > 1 and config["order"] != "alternating":
        raise InputError("--phi_steps above 1 needs --order=alternating")


def _can_remat(config: Config) -> bool:
    """Whether the model or the method has something to compute again."""
    model = config.model()
    name = "wrn-D-K" if str(model).startswith("wrn-") else model
    made = MODELS.get(name) if isinstance(name, str) else model
    takers = [config.method(), *([] if made is None else [made])]
    return made is None or any("remat" in inspect.signature(f).parameters for f in takers)


def short_name(text: str) -> str:
    """What a data set or a method is called in the name of a folder."""
    kind, _, rest = text.rpartition(":")
    return pathlib.Path(rest).stem if kind in ("npz", "folder") else rest.replace("/", "_")


def epochs(text: str, name: str) -> list[float]:
    """`30,60` as numbers."""
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise InputError(f"{name}={text} is no list of epochs such as 30,60")
    return numbers


def show(config: Mapping[str, Any]) -> str:
    """Every setting on a line that can be pasted back; one without a value is left out."""
    values = {k: v for k, v in config.items() if v is not None and k != "plugins"}
    return shlex.join(f"--{name}={_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_json(workdir: str | pathlib.Path) -> dict[str, Any]:
    """What the config.json of a run of any kind says."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{workdir} is no run: it has no config.json") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration")
    return config


def read(
    workdir: str | pathlib.Path, plugins: Plugins | Iterable[str | pathlib.Path] = ()
) -> Config:
    """The configuration of a training run, with the files of the user's own that are given."""
    config = Config(read_json(workdir), Plugins(plugins))
    if config.get("made_by") == "fit":
        raise InputError(
            f"{workdir} was made by fit, from objects that no file describes: give the same game"
        )
    lacking = [f"--{s.name}" for s in COMMON if s.name not in config]
    if lacking:
        path = pathlib.Path(workdir) / "config.json"
        raise InputError(f"{path} is of another version: it lacks {', '.join(lacking)}")
    return config


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings on which two configurations differ, with both values."""
    names = [*old, *(name for name in new if name not in old)]
    kinds = {s.name: s for s in [*COMMON, *method_settings().values()]}

    def value(config: Mapping[str, Any], name: str) -> Any:
        given = config.get(name)
        if (
            name not in kinds
            or kinds[name].kind not in ("fraction", "step", float)
            or given is None
        ):
            return given
        return kinds[name].check(given)

    before, now = old.get("plugins") or {}, new.get("plugins") or {}
    return [
        f"--{name}: {old.get(name)} -> {new.get(name)}"
        for name in names
        if name != "plugins" and value(old, name) != value(new, name)
    ] + [f"{file} has changed" for file in before if now.get(file, before[file]) != before[file]]


def open_workdir(workdir: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Make the folder and write config.json; a folder that holds another run is refused."""
    path = workdir / "config.json"
    if path.exists():
        changed = differences(read_json(workdir), described)
        if changed:
            raise InputError(
                f"{workdir} holds a run with other flags ({'; '.join(changed)}): "
                "give them as they were, or another --workdir"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if any(workdir.iterdir()):
            raise InputError(f"{workdir} is not empty and holds no run: give another --workdir")
        write_json(path, described)
    except OSError as error:
        raise InputError(f"{workdir} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile; the lock goes with the process."""
    with (workdir / "config.json").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{workdir}: another process is training there") from None
        yield


def check_output(flag: str, path: pathlib.Path) -> None:
    """A InputError unless a file of that name can be written; said before the work is done."""
    if path.is_dir():
        raise InputError(f"--{flag}={path} is a folder: give the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--{flag}={path} cannot be written: there is no such folder to write in")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Written whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, path)
