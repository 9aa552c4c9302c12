"""README says what is so: its code runs as printed, its commands parse, its names and files exist.

Each Python block runs alone, in a namespace of its own, as if it were copied from the page.
"""

import importlib
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from l2ljax import machine
from l2ljax.attacks import parse_all, pgd
from l2ljax.attacks.specs import OneRun
from l2ljax.commands import gail
from l2ljax.commands.flags import parse
from l2ljax.imitation import resolve
from l2ljax.imitation.comparison import cells_of
from l2ljax.methods import METHODS
from l2ljax.models import MODELS
from l2ljax.runs import config as configuration
from l2ljax.runs.recipes import RECIPES

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "docs/imitation.md", "docs/methods.md", "docs/scaling.md")
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


def table(script):
    """The flags of a script."""
    folder, stem = pathlib.Path(script).parent.name, pathlib.Path(script).stem
    module = f"l2ljax.commands.{stem}" if folder == "experiments" else stem
    return importlib.import_module(module).FLAGS


def test_there_are_blocks_and_commands_to_check():
    assert len(BLOCKS) == README.count("```python") == 2
    named = {parameters.values[0] for parameters in commands()}
    assert {f"experiments/{name}.py" for name in ("train", "compare", "evaluate", "gail")} <= named
    assert len(named) >= 7


@pytest.mark.parametrize("block", BLOCKS, ids=["attacks", "prototype"])
def test_a_block_runs_as_printed(block):
    namespace = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    if "result" in namespace:
        assert list(namespace["result"].accuracy) == re.findall(r"'([\w-]+)': \.\.\.", block)
    else:
        assert int(namespace["state"].step) == 1


@pytest.mark.parametrize("script, words", commands())
def test_a_command_parses(script, words):
    given = parse(table(script), words)
    if script.endswith("/train.py"):
        configuration.resolve(given)
    if script.endswith("/gail.py") and not given.get("make_expert"):
        settings = gail.arguments(given)
        cells_of(**settings) if given.get("compare") else resolve(settings)
    if "attacks" in given:
        assert parse_all(given["attacks"], learned=lambda workdir: OneRun(pgd, 1.0))
    for method in given.get("methods", "plain").split(","):
        assert method in METHODS


def test_every_flag_named_is_one_of_a_script():
    scripts = ("train", "compare", "search", "evaluate", "transfer", "export", "gail")
    known = {flag.name for script in scripts for flag in table(f"experiments/{script}.py")}
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
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README)]
    files = re.findall(r"`((?:l2ljax|experiments|benchmarks|docs|results|tests)/[\w/.]*)`", README)
    assert len(links) > 15 and len(files) > 5
    assert not [name for name in links + files if not (ROOT / name).exists()]


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
