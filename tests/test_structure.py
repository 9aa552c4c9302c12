"""The shape of the package, read from its imports: tiers, and who may touch files, clocks, flags.

A new module is placed in TIERS before anything else; until then these tests fail.
"""

import ast
import itertools
import pathlib

import pytest

from l2ljax.methods import METHODS

ROOT = pathlib.Path(__file__).parent.parent

TIERS = (
    ("types", "ball", "errors", "gate", "names", "streams"),
    (
        "attacker_input",
        "auto_pgd",
        "functional",
        "grad_align",
        "inner_loop",
        "interpolation",
        "losses",
        "models",
        "schedules",
    ),
    ("solvers",),
    ("attacks", "bilevel", "imitation", "methods", "step_input", "two_terms"),
    ("__init__",),
    (
        "checkpoint",
        "data",
        "diagnostics",
        "evaluate",
        "manifest",
        "masking",
        "parallel",
        "progress",
        "reader",
        "record",
    ),
)
"""From the bottom up; a module imports from its own tier and from those above it in this list."""

TIER = {name: i for i, names in enumerate(TIERS) for name in names}

WHERE = {
    "absl": ("checkpoint", "reader"),
    "orbax": ("checkpoint", "reader"),
    "tensorflow_datasets": ("data",),
    "tensorboardX": ("record",),
    "matplotlib": (),
    "tensorflow": (),
    "torch": (),
    "flax": ("attacks", "functional", "imitation", "models"),
    "gymnax": ("imitation",),
    "jax.sharding": ("parallel",),
    "absl.flags": (),
    "argparse": (),
    "time": ("evaluate", "progress", "record"),
    "datetime": (),
    **dict.fromkeys(
        ("os", "pathlib", "io", "tempfile", "shutil"),
        ("checkpoint", "data", "manifest", "progress", "reader", "record"),
    ),
}
"""What only some modules may import: no clocks, files or heavy libraries elsewhere."""

LAZY = ("tensorflow_datasets", "tensorboardX", "matplotlib", "requests", "sklearn", "gymnax")
"""Imported inside the function that needs them: a run without them never pays for them."""


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): ast.parse(path.read_text()) for path in python_files("l2ljax")}
SOLVERS = sorted(name for name in MODULES if name.startswith("l2ljax.solvers."))


def part(module):
    """`data` of l2ljax.data.table; `__init__` of l2ljax itself."""
    return (module.split(".") + ["__init__"])[1]


def imports(tree):
    """Every module a file imports, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def inner(tree):
    """The modules of l2ljax among them: `from l2ljax import solvers` is l2ljax.solvers."""
    for name in imports(tree):
        if name.split(".")[0] == "l2ljax":
            yield name if name in MODULES else name.rpartition(".")[0]


def used_names(tree):
    """Every dotted name read in a file, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node)


def test_every_module_has_a_place_and_every_place_a_module():
    assert {part(module) for module in MODULES} == set(TIER)
    assert len(TIER) == sum(map(len, TIERS)), "a module has two places"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    above = [name for name in inner(MODULES[module]) if TIER[part(name)] > TIER[part(module)]]
    assert not above, f"{module} imports {above}"


def test_no_two_modules_import_each_other():
    graph = {module: set(inner(tree)) - {module} for module, tree in MODULES.items()}
    while leaves := [module for module, needs in graph.items() if not needs]:
        for leaf in leaves:
            del graph[leaf]
        for needs in graph.values():
            needs.difference_update(leaves)
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_never_import_each_other(solver):
    assert not [name for name in inner(MODULES[solver]) if part(name) == "solvers"]


@pytest.mark.parametrize("library", WHERE)
def test_a_library_is_imported_only_where_it_belongs(library):
    users = {
        part(module)
        for module, tree in MODULES.items()
        if any(f"{name}.".startswith(f"{library}.") for name in imports(tree))
        or any(f"{name}.".startswith(f"{library}.") for name in used_names(tree))
    }
    assert users <= set(WHERE[library])


@pytest.mark.parametrize("library", LAZY)
def test_a_heavy_library_is_imported_inside_a_function(library):
    for module, tree in MODULES.items():
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        classes = [node for node in top.body if isinstance(node, ast.ClassDef)]
        top.body = [node for node in top.body if node not in classes]
        assert not any(name.split(".")[0] == library for name in imports(top)), module


def test_nothing_reads_the_environment_or_the_command_line():
    forbidden = {"environ", "getenv", "argv", "FLAGS", "input"}
    for module, tree in MODULES.items():
        words = {word for name in used_names(tree) for word in name.split(".")}
        words |= {word for name in imports(tree) for word in name.split(".")}
        words -= {"input"} if part(module) == "attacker_input" else set()
        assert not words & forbidden, module


def test_only_the_ball_clips():
    """optax's clip of a gradient's norm is no clip of pixels, nor is that of an action."""
    clips = {"clip", "clamp", "clip_by_value"}
    for module, tree in MODULES.items():
        if part(module) == "imitation":
            continue
        names = [name for name in (*used_names(tree), *imports(tree)) if "." in name]
        words = {name.rpartition(".")[2] for name in names}
        assert module == "l2ljax.ball" or not words & clips, module
    ball = set(used_names(MODULES["l2ljax.ball"]))
    assert "lax.clamp" in ball and not any(name.endswith(".clip") for name in ball)


def test_the_step_names_no_method():
    text = (ROOT / "l2ljax" / "bilevel.py").read_text()
    assert not [name for name in METHODS if name in text]


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("module", MODULES)
def test_eps_and_steps_have_no_default_in_the_library(module):
    """BatchNorm's own eps, in models, is another number."""
    forbidden = {"steps", "inner_steps", "step_size"}
    forbidden |= {"eps"} if part(module) != "models" else set()
    for function in functions(MODULES[module]):
        a = function.args
        positional = [*a.posonlyargs, *a.args]
        given = positional[len(positional) - len(a.defaults) :]
        given += [x for x, y in zip(a.kwonlyargs, a.kw_defaults, strict=True) if y is not None]
        assert not {argument.arg for argument in given} & forbidden, function.name


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    tree = MODULES[module]
    assert ast.get_docstring(tree), module
    kinds = (ast.FunctionDef, ast.ClassDef)
    tops = [node for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"]
    classes = [node for node in tops if isinstance(node, ast.ClassDef)]
    methods = itertools.chain(*(c.body for c in classes))
    tops += [m for m in methods if isinstance(m, ast.FunctionDef) and m.name[0] != "_"]
    assert not [node.name for node in tops if not ast.get_docstring(node)]


@pytest.mark.parametrize(
    "path",
    python_files("l2ljax", "experiments", "benchmarks", "examples"),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_exception_is_caught_by_its_broadest_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            words = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            assert not words & {"Exception", "BaseException"}, f"line {node.lineno}"


def test_an_example_fits_on_a_screen():
    lengths = {p.name: len(p.read_text().splitlines()) for p in python_files("examples")}
    assert not {name: n for name, n in lengths.items() if n > 60}


def test_the_checks_see_what_they_look_for():
    tree = ast.parse("from absl import flags\nimport os.path\ndef f():\n    os.environ['x']")
    assert list(imports(tree)) == ["absl.flags", "os.path"]
    assert "os.environ" in set(used_names(tree))
    assert part("l2ljax") == "__init__" and part("l2ljax.data.table") == "data"
    assert "l2ljax.solvers" in set(inner(MODULES["l2ljax.methods"]))


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.[jm]*")), ids=lambda p: p.name)
def test_no_result_names_a_folder_of_the_machine_it_was_measured_on(path):
    text = path.read_text()
    assert not [start for start in ("/tmp/", "/home/", "/root/", "/Users/") if start in text]
