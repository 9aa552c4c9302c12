"""Flags: what a command line gives, and the one line that a wrong one gets."""

import importlib
import pathlib
import warnings

import pytest

from l2ljax.ball import length
from l2ljax.commands.flags import parse, run_main, show_help
from l2ljax.errors import DataError, InputError
from l2ljax.settings import Setting, check_eps, defaults, fraction, step_size

TABLE = [
    Setting("eps", "fraction", "radius of the ball", "0.1"),
    Setting("size", int, "how many", 3),
    Setting("rate", float, "per step"),
    Setting("mix", bool, "both kinds", True),
    Setting("word", ("one", "two"), "which of them"),
    Setting("name", str, "of the thing", ""),
]


@pytest.mark.parametrize(
    "argv, given",
    [
        ([], {}),
        (["--eps=8/255"], {"eps": "8/255"}),
        (["--eps", "8/255"], {"eps": "8/255"}),
        (["--size=4", "--rate=1e-3"], {"size": 4, "rate": 1e-3}),
        (["--nomix"], {"mix": False}),
        (["--mix=false", "--word=two"], {"mix": False, "word": "two"}),
        (["--mix"], {"mix": True}),
        (["--name="], {"name": ""}),
        (["--name=a=b c"], {"name": "a=b c"}),
        (["--size=4", "--size=5"], {"size": 5}),
        (["--size=3"], {"size": 3}),
    ],
)
def test_what_is_given_and_nothing_else(argv, given):
    assert parse(TABLE, argv) == given


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--szie=4"], ["unknown flag 'szie'", "'size'", "eps", "name"]),
        (["--nosize"], ["unknown flag 'nosize'", "'size'"]),
        (["--word=tow"], ["--word 'tow'", "'two'", "one"]),
        (["--word="], ["--word ''", "one", "two"]),
        (["--size=many"], ["--size=many"]),
        (["--size=1.5"], ["--size=1.5"]),
        (["--size"], ["size"]),
        (["--rate=fast"], ["--rate: 'fast' is no number"]),
        (["--rate=nan"], ["--rate", "nan"]),
        (["--rate=inf"], ["--rate", "inf"]),
        (["--mix=maybe"], ["--mix=maybe"]),
        (["--eps=8/0"], ["--eps", "'8/0'", "8/255"]),
        (["--eps=eight"], ["--eps", "'eight'"]),
        (["--eps=nan"], ["--eps", "'nan'"]),
        (["stray"], ["'stray'", "--name=value"]),
        (["--mix", "false"], ["'false'", "--name=value"]),
        (["--size=4", "--", "--rate=1"], ["'--rate=1'"]),
    ],
)
def test_what_is_refused_in_one_line(argv, words):
    with pytest.raises(InputError) as info:
        parse(TABLE, argv)
    said = str(info.value)
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said


def test_two_parses_do_not_know_of_each_other():
    assert parse(TABLE, ["--size=4"]) == {"size": 4}
    assert parse(TABLE, ["--rate=1"]) == {"rate": 1.0}


@pytest.mark.parametrize(
    "text, number",
    [
        ("0.03", 0.03),
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("1", 1.0),
        ("1e-2", 0.01),
        (2, 2.0),
    ],
)
def test_a_fraction_is_a_number(text, number):
    assert fraction(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "/", "8/", "/255", "8/0", "0/0", "1/2/3", "nan", "inf", "-inf", "8/nan", "eight", "8%"],
)
def test_what_is_no_finite_number_is_refused(text):
    with pytest.raises(InputError, match="is no number such as 0.03 or 8/255"):
        fraction(text)


def test_eps_lies_in_the_range_of_pixels():
    assert [check_eps(text) for text in ("1", "8/255", "1e-6", 0.5)] == [1.0, 8 / 255, 1e-6, 0.5]
    for text in ("0", "0.0", "0/255", "-0.1", "-8/255", "1.0001", "8", "256/255"):
        with pytest.raises(InputError, match=f"--eps={text} (must be a number above 0|is outside)"):
            check_eps(text)
    with pytest.raises(InputError):
        check_eps("nan")


def test_help_is_the_docstring_and_a_line_for_every_flag():
    text = show_help("What it does.\n\n    usage\n", TABLE)
    assert text.startswith("What it does.\n\n    usage\n\nflags:\n")
    lines = text.splitlines()[-len(TABLE) :]
    assert lines[0] == "  --eps: radius of the ball [0.1]"
    assert lines[2] == "  --rate: per step"
    assert lines[4] == "  --word: which of them (one | two)"
    assert len(defaults(TABLE)) == len(TABLE) and defaults(TABLE)["size"] == 3


def main(body, *argv):
    return run_main("it.py", "What it does.", TABLE, body, argv)


@pytest.mark.parametrize("error", [InputError("no such thing"), DataError("no such thing")])
def test_an_error_of_the_users_is_one_line_and_exit_code_2(error, capsys):
    def body(given):
        raise error

    assert main(body) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "it.py: no such thing\n")


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        main(lambda given: 1 // 0)


def test_a_warning_of_the_library_is_one_line(capsys):
    def body(_):
        warnings.simplefilter("always")
        warnings.warn("3 claims were refused", RuntimeWarning, stacklevel=1)
        return 0

    assert run_main("script", "", TABLE, body, []) == 0
    assert capsys.readouterr().err == "warning: 3 claims were refused\n"


def test_the_body_gets_the_flags_and_gives_the_exit_code():
    assert main(lambda given: given["size"], "--size=7") == 7
    assert main(lambda given: 0) == 0


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull"])
def test_help_runs_nothing(word, capsys):
    assert main(lambda given: 1, "--size=nonsense", word) == 0
    assert "--size: how many [3]" in capsys.readouterr().out


SCRIPTS = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parent.parent / "experiments").glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


@pytest.mark.parametrize("script", SCRIPTS)
class TestEveryScript:
    def test_its_help_names_every_flag_with_its_meaning(self, script, capsys):
        module = importlib.import_module(f"l2ljax.commands.{script}")
        assert module.main(["--help"]) == 0
        text = capsys.readouterr().out
        names = [flag.name for flag in module.FLAGS]
        assert len(names) == len(set(names))
        for flag in module.FLAGS:
            assert f"  --{flag.name}: {flag.help}" in text
            assert len(flag.help.split()) > 1, f"--{flag.name}: unit or meaning?"

    def test_its_defaults_are_of_their_kind(self, script):
        for flag in importlib.import_module(f"l2ljax.commands.{script}").FLAGS:
            if flag.default is None:
                continue
            if isinstance(flag.kind, tuple):
                assert flag.default in flag.kind
            elif flag.kind == "fraction":
                fraction(flag.default)
            else:
                assert type(flag.default) is flag.kind, flag.name

    def test_an_unknown_flag_names_the_nearest(self, script, capsys):
        module = importlib.import_module(f"l2ljax.commands.{script}")
        name = module.FLAGS[0].name
        assert module.main([f"--{name}z=1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{script}.py: unknown flag '{name}z'") and f"'{name}'" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "text, number",
    [("0.01", 0.01), ("2/255", 2 / 255), ("1.25eps", 0.25), ("1/2eps", 0.1), ("1eps", 0.2)],
)
def test_a_step_is_a_number_or_a_multiple_of_the_radius(text, number):
    assert length(step_size(text), 0.2) == pytest.approx(number)


@pytest.mark.parametrize("text", ["eps", "1.25 radii", "1epsilon", "eps1.25", ""])
def test_what_is_no_step_is_refused(text):
    with pytest.raises(InputError, match="is no"):
        step_size(text)
