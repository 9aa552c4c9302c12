"""README says what is so: its code runs as printed, its commands parse, its names and files exist.

Each Python block runs alone, in a namespace of its own, as if it were copied from the page.
"""

import importlib
import importlib.metadata
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import types

import pytest

from l2ljax import Method, machine
from l2ljax.attacks import parse_all, pgd
from l2ljax.attacks.specs import OneRun
from l2ljax.commands import gail
from l2ljax.commands.flags import parse, plugins_of
from l2ljax.imitation import resolve
from l2ljax.imitation.comparison import cells_of
from l2ljax.methods import METHODS
from l2ljax.models import MODELS
from l2ljax.runs import config as configuration
from l2ljax.runs.recipes import RECIPES
from l2ljax.runs.settings import OPTIONS

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("data", "imitation", "methods", "plans", "scaling")),
)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def commands():
    """The script and the words of every `python experiments/...` and `python benchmarks/...`."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for script, rest in re.findall(
            r"python ((?:experiments|benchmarks)/\w+\.py)([^`\n]*)", text
        ):
            words = [word for word in shlex.split(rest, comments=True) if word != "..."]
            found.append(pytest.param(script, words, id=f"{page}: {script}{rest}"))
    return found


def table(script, words=()):
    """The flags of a script, with those of the files of a user's own that the words name."""
    folder, stem = pathlib.Path(script).parent.name, pathlib.Path(script).stem
    module = importlib.import_module(f"l2ljax.commands.{stem}" if folder == "experiments" else stem)
    return module.flags_for(words) if stem in ("train", "plan") else module.FLAGS


def own(words):
    """The files of a user's own that the words name."""
    return plugins_of(words)[0]


def test_there_are_blocks_and_commands_to_check():
    assert len(BLOCKS) == README.count("```python") == 5
    named = {parameters.values[0] for parameters in commands()}
    assert {f"experiments/{name}.py" for name in ("train", "compare", "evaluate", "gail")} <= named
    assert len(named) >= 7


@pytest.mark.parametrize("block", BLOCKS, ids=["calls", "objects", "method", "attacks", "loop"])
def test_a_block_runs_as_printed(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("readme")  # where get_type_hints looks names up
    monkeypatch.setitem(sys.modules, "readme", module)
    exec(compile(block, "README.md", "exec"), module.__dict__)
    found = vars(module)
    if "table" in found:
        assert (tmp_path / "runs" / "a" / "summary.json").exists()
        assert list(found["table"].accuracy) == ["clean", "pgm10"] and callable(found["attack"])
    elif "run" in found:
        assert found["run"].workdir is None and found["run"].summary["stopped_by"] == "callback"
    elif "short_fgsm" in found:
        assert isinstance(found["method"], Method)
    elif "result" in found:
        assert list(found["result"].accuracy) == re.findall(r"'([\w-]+)': \.\.\.", block)
    else:
        assert int(found["state"].step) == 1


@pytest.mark.parametrize("script, words", commands())
def test_a_command_parses(script, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = parse(table(script, words), words)
    if script.endswith("/train.py"):
        ways = {setting.name for setting in OPTIONS}
        deciding = {name: value for name, value in given.items() if name not in ways}
        config = configuration.resolve(deciding, own(words))
        assert all(config[name] is not None for name in {"momentum", "units"} & given.keys())
    if script.endswith("/gail.py") and not given.get("make_expert"):
        settings = gail.arguments(given)
        cells_of(**settings) if given.get("compare") else resolve(settings)
    if "attacks" in given:
        attacks, extra = own(words).take_attacks(given["attacks"])
        assert parse_all(attacks, learned=lambda workdir: OneRun(pgd, 1.0), extra=extra)
    for method in given.get("methods", "plain").split(","):
        assert method in METHODS


def test_every_flag_named_is_one_of_a_script(monkeypatch):
    monkeypatch.chdir(ROOT)
    scripts = ("train", "compare", "search", "evaluate", "transfer", "export", "plan", "gail")
    words = ("--method=examples/momentum_l2l.py:momentum_l2l", "--model=examples/own_net.py:Net")
    known = {flag.name for script in scripts for flag in table(f"experiments/{script}.py", words)}
    named = set(re.findall(r"--([a-z]\w*)", README)) - {"help"}
    assert len(named) > 50
    assert not {
        name for name in named if name not in known and name.removeprefix("no") not in known
    }


def test_every_method_model_and_recipe_is_named():
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    assert set(METHODS) <= {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert f"`--model={'|'.join(MODELS)}`" in README
    recipes = README.partition("Recipes are dicts")[2].partition("\n\n")[0]
    assert set(RECIPES) <= set(re.findall(r"`(\w+)`", recipes))


def test_every_file_named_exists():
    rooms = "l2ljax|experiments|examples|benchmarks|docs|results|tests"
    for page in PAGES:
        text, folder = (ROOT / page).read_text(), (ROOT / page).parent
        links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
        files = re.findall(rf"`((?:{rooms})/[\w/.]*)`", text)
        assert len(links) + len(files) >= (20 if page == "README.md" else 1)
        lost = [link for link in links if not (folder / link).exists()]
        assert not lost + [file for file in files if not (ROOT / file).exists()], page


def test_every_room_is_in_the_table():
    section = README.partition("## Where do I find what")[2].partition("\n## ")[0]
    rows = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    named = re.findall(r"`([\w.]+/?)`", rows)
    assert not [name for name in named if not (ROOT / "l2ljax" / name).exists()]
    rooms = {path.name for path in (ROOT / "l2ljax").iterdir() if (path / "__init__.py").exists()}
    assert rooms == {name.rstrip("/") for name in named if name.endswith("/")}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_commit_with_changes_beside_it_is_said_in_words(tmp_path, monkeypatch):
    file = tmp_path / "machine.py"
    file.write_text("first\n")
    who = ("-c", "user.name=l2ljax", "-c", "user.email=l2ljax@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "A file.")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(machine, "__file__", str(file))
    clean = machine.describe()["commit"]
    assert re.fullmatch("[0-9a-f]{12}", clean)
    file.write_text("second\n")
    assert machine.describe()["commit"] == f"{clean} and changes not committed"


def test_no_page_of_results_calls_a_commit_dirty():
    pages = [*(ROOT / "results").glob("*.md"), *(ROOT / "results").glob("*.json")]
    assert len(pages) > 20
    assert not [page.name for page in pages if "-dirty" in page.read_text()]


def test_a_package_that_is_not_installed_is_said_to_be_so(monkeypatch):
    """A benchmark may run from a copy of the source, whose package has no version."""

    def version(name):
        if name == "l2ljax":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    said = machine.describe()
    assert said["l2ljax"] == "not installed" and said["optax"] == "1.2.3"
