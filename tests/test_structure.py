"""The house as its imports draw it: which room may use which, and what each may touch."""

import ast
import pathlib

from l2ljax.methods import METHODS

ROOT = pathlib.Path(__file__).parent.parent

ROOMS = (
    ("types", "errors", "ball", "gate", "settings", "devices", "terminal"),
    (
        "attacker_input",
        "apply",
        "switches",
        "losses",
        "models",
        "schedules",
        "solvers",
        "bilevel",
        "methods",
    ),
    ("data", "record", "hosts", "machine", "parallel"),
    ("checkpoint",),
    ("attacks",),
    ("masking",),
    ("evaluation",),
    ("runs", "plugins"),
    ("__init__", "imitation", "plan"),
    ("figures",),
    ("commands", "__main__"),
)
"""From the ground floor up: a room uses those of its own floor and of the floors below."""

FLOOR = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}

WHERE = {
    "absl": ("commands", "checkpoint"),
    "orbax": ("checkpoint",),
    "tensorflow_datasets": ("data",),
    "tensorboardX": ("record",),
    "matplotlib": ("figures",),
    "sklearn": ("data",),
    "gymnax": ("imitation",),
    "tensorflow": (),
    "torch": (),
    "argparse": (),
    "signal": ("terminal",),
    "subprocess": ("machine",),
    "flax": ("attacks", "apply", "imitation", "models"),
}
"""Who may import what: the rest of the house does without it."""

LAZY = ("tensorflow_datasets", "tensorboardX", "requests", "sklearn", "gymnax", "matplotlib")
"""Imported inside the function that needs them, or in figures: a run without them never pays."""


def files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): ast.parse(path.read_text()) for path in files("l2ljax")}


def room(module):
    """`data` of l2ljax.data.table; `__init__` of l2ljax itself."""
    return (module.split(".") + ["__init__"])[1]


def imports(tree):
    """Every module a file imports, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(tree):
    """The modules of l2ljax among them: `from l2ljax import solvers` is l2ljax.solvers."""
    for name in imports(tree):
        if name.split(".")[0] == "l2ljax":
            yield name if name in MODULES else name.rpartition(".")[0]


def top(tree):
    """What a file runs when it is imported."""
    inside = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return ast.Module([node for node in tree.body if not isinstance(node, inside)], [])


def test_imports_go_down_and_never_in_a_circle():
    assert {room(module) for module in MODULES} <= set(FLOOR)
    up = {
        f"{module} uses {used}"
        for module, tree in MODULES.items()
        for used in inner(tree)
        if FLOOR[room(used)] > FLOOR[room(module)] and module != "l2ljax"
    }
    assert not up
    graph = {module: set(inner(top(tree))) - {module} for module, tree in MODULES.items()}
    while leaves := [module for module, needs in graph.items() if not needs]:
        for leaf in leaves:
            del graph[leaf]
        for needs in graph.values():
            needs.difference_update(leaves)
    assert not graph, f"a circle among {sorted(graph)}"


def test_a_library_is_imported_where_it_belongs_and_a_heavy_one_when_it_is_needed():
    for module, tree in MODULES.items():
        for name in imports(tree):
            library = name.split(".")[0]
            assert room(module) in WHERE.get(library, (room(module),)), f"{module}: {name}"
        if room(module) != "figures":
            eager = {name.split(".")[0] for name in imports(top(tree))}
            assert not eager & set(LAZY), f"{module}: {eager & set(LAZY)}"


def test_scripts_hold_no_code_of_their_own():
    scripts = files("experiments")
    assert 0 < len(scripts) <= 12
    for path in scripts:
        assert len(path.read_text().splitlines()) <= 200, path
        assert set(inner(ast.parse(path.read_text()))) <= {f"l2ljax.commands.{path.stem}"}, path


def test_no_file_is_too_long_to_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in files("l2ljax")}
    assert not {name: n for name, n in lengths.items() if n > 300}
    assert len(lengths) <= 114
    screens = {path.name: len(path.read_text().splitlines()) for path in files("examples")}
    assert not {name: n for name, n in screens.items() if n > 60}


def test_only_commands_machine_and_hosts_read_the_environment():
    for module, tree in MODULES.items():
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        allowed = room(module) in ("commands", "machine", "hosts", "__main__")
        assert allowed or not names & {"os.environ", "os.getenv", "sys.argv"}, module


def test_only_the_ball_clips_and_only_with_a_gradient_of_zero_at_a_tie():
    """optax's clip of a gradient's norm is no clip of pixels, nor is that of an action."""
    for module, tree in MODULES.items():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        words = {f.attr for f in calls if isinstance(f, ast.Attribute)}
        drawing = room(module) in ("figures", "imitation")
        assert drawing or module == "l2ljax.ball" or not words & {"clip", "clamp"}, module
        assert module != "l2ljax.ball" or "clip" not in words


def test_the_step_names_no_method_and_the_library_has_no_radius_of_its_own():
    assert not [name for name in METHODS if name in (ROOT / "l2ljax/bilevel.py").read_text()]
    for module, tree in MODULES.items():
        if room(module) in ("models", "runs", "commands", "evaluation", "figures", "imitation"):
            continue  # BatchNorm's eps is another number, and recipes are made of such numbers
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            a = function.args
            positional = [*a.posonlyargs, *a.args]
            given = positional[len(positional) - len(a.defaults) :]
            given += [x for x, y in zip(a.kwonlyargs, a.kw_defaults, strict=True) if y is not None]
            names = {argument.arg for argument in given}
            assert not names & {"eps", "steps", "inner_steps", "step_size"}, function.name


def test_no_result_names_a_folder_of_the_machine_it_was_measured_on():
    for path in (ROOT / "results").rglob("*.[jm]*"):
        text = path.read_text()
        assert not [s for s in ("/tmp/", "/home/", "/root/", "/Users/") if s in text], path
