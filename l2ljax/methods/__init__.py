"""METHODS: the methods by name. A method is a function whose keywords are its settings.

    method = make_method("pgm", inner_steps=7, inner_step="2/255", attacker_start="uniform",
                         attack_loss="ce", clean_mix=False, label_smoothing=0.0)
    method = make_method("grad_l2l", attacker=make_attacker("wide", 3), ...)
    method = make_method(momentum_l2l, momentum=0.9)       # a function of your own

A function of your own looks like those in `hand_made` and `learned`. `check_method` says what is
wrong with one, and `METHODS["momentum_l2l"] = check_method(momentum_l2l)` gives it a name.
"""

import inspect
from collections.abc import Callable
from typing import Any

from l2ljax.errors import InputError, word
from l2ljax.methods import hand_made, learned
from l2ljax.settings import Setting, settings_of
from l2ljax.types import Method

METHODS: dict[str, Callable[..., Method]] = {
    "plain": hand_made.plain,
    "fgsm": hand_made.fgsm,
    "pgm": hand_made.pgm,
    "naive_l2l": learned.naive_l2l,
    "grad_l2l": learned.grad_l2l,
    "two_step_l2l": learned.two_step_l2l,
    "multistep_l2l": learned.multistep_l2l,
    "kstep_l2l": learned.kstep_l2l,
    "grad_l2l_trades": learned.grad_l2l_trades,
    "two_step_l2l_trades": learned.two_step_l2l_trades,
    "grad_l2l_interp": learned.grad_l2l_interp,
    "two_step_l2l_interp": learned.two_step_l2l_interp,
    "rnn_adv": learned.rnn_adv,
    "rnn_trades": learned.rnn_trades,
    "trades": hand_made.trades,
    "fast_bat": hand_made.fast_bat,
    "fast_at": hand_made.fast_at,
    "n_fgsm": hand_made.n_fgsm,
    "grad_align": hand_made.grad_align,
    "pgd2": hand_made.pgd2,
    "pgd10": hand_made.pgd10,
    "apgd10": hand_made.apgd10,
}
"""What `--method=` and `make_method` take."""


def make_method(
    method: str | Callable[..., Method], *, attacker: Any = None, **settings: Any
) -> Method:
    """The method of that name, or that function of your own, with these settings.

    It is given each of its settings and no other. Numbers may be texts such as `8/255`, and a
    step may be a multiple of the radius, `1.25eps`. `attacker` is the Flax module g of a method
    that has one.
    """
    function = _function_of(method)
    name, known = function.__name__, method_settings(function)
    for setting in settings:
        word(f"setting of {name}", setting, known)
    if attacker is not None and not wants_attacker(function):
        raise InputError(f"method {name} has no network g: leave attacker out")
    parameters = inspect.signature(function).parameters
    required = [n for n in known if parameters[n].default is inspect.Parameter.empty]
    lacking = [setting for setting in required if settings.get(setting) is None]
    lacking += ["attacker"] if wants_attacker(function) and attacker is None else []
    if lacking:
        raise InputError(f"method {name} needs {', '.join(lacking)}")
    values = {setting: known[setting].check(value) for setting, value in settings.items()}
    made = function(attacker, **values) if wants_attacker(function) else function(**values)
    if not isinstance(made, Method):
        raise InputError(f"{name} returns a {type(made).__name__} and no Method")
    if values.get("attack_loss") == "kl" and made.solver.begins_at_x:
        raise InputError(
            f"attack_loss 'kl' has no gradient at x itself, where {name} takes its first one: "
            f"{_elsewhere(known)}"
        )
    return made


def check_method(function: Any) -> Callable[..., Method]:
    """The function, or an InputError that says why it is no method.

    A method is a function with a docstring whose first line says what it is, for --help. It may
    have one positional parameter, `attacker`, if it wants the network g. Everything else is a
    keyword-only setting that says what it is (`l2ljax.settings.settings_of`); a setting that
    other methods have too is of the same type there.
    """
    if not inspect.isfunction(function):
        raise InputError(
            f"{getattr(function, '__name__', type(function).__name__)} is no function: a method is "
            "a function of its settings that returns a Method"
        )
    name, positional = function.__name__, (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    for parameter in inspect.signature(function).parameters.values():
        wanted = positional if parameter.name == "attacker" else (parameter.KEYWORD_ONLY,)
        if parameter.kind not in wanted:
            raise InputError(
                f"{name}: {parameter} must be a keyword-only setting; the one positional parameter "
                f"of a method is attacker, as in def {name}(attacker, *, ...)"
            )
    if not inspect.getdoc(function):
        raise InputError(f"{name} has no docstring: its first line is what --help shows")
    for setting in settings_of(function):
        for other in takers(setting.name):
            if method_settings(other)[setting.name].kind != setting.kind:
                raise InputError(
                    f"{name}: the setting {setting.name} is of another type in {other}; give it "
                    "another name"
                )
    return function


def method_settings(method: str | Callable[..., Method]) -> dict[str, Setting]:
    """The settings of a method by name."""
    function = METHODS[method] if isinstance(method, str) else method
    return {setting.name: setting for setting in settings_of(function)}


def wants_attacker(method: str | Callable[..., Method]) -> bool:
    """Whether the method has a network g; the RNN methods bring their own."""
    function = METHODS[method] if isinstance(method, str) else method
    return "attacker" in inspect.signature(function).parameters


def takers(setting: str) -> list[str]:
    """The methods that have a setting."""
    return [name for name in METHODS if setting in method_settings(name)]


def _function_of(method: Any) -> Callable[..., Method]:
    if isinstance(method, str):
        word("method", method, METHODS)
        return METHODS[method]
    return check_method(method)


def _elsewhere(settings: dict[str, Setting]) -> str:
    """The setting by which a method's first gradient is taken elsewhere than at x."""
    if "attacker_start" in settings:
        return "take attacker_start gaussian or uniform"
    if "bat_point" in settings:
        return "take bat_point random, pgd, ns_pgd or ns_gd"
    if "noise" in settings:
        return "take noise above 0"
    return "take another attack_loss"
