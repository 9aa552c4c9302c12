import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2ljax.checkpoint import Checkpoints, fingerprint, restore_any
from l2ljax.errors import CheckpointError
from l2ljax.types import State


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=False)(nn.relu(x))
        return nn.Dense(10)(x.mean((1, 2)))


def make_state(seed=0, width=4):
    """Parameters, statistics and optimisers as in a run; phi has no statistics."""
    draw, x = jax.random.key(seed), jnp.ones((2, 8, 8, 1))
    theta = Net(width).init(draw, x)
    phi = nn.Dense(3).init(draw, jnp.ones((1, 2)))["params"]
    sgd = optax.chain(
        optax.add_decayed_weights(2e-4),
        optax.sgd(optax.cosine_decay_schedule(0.1, 100), momentum=0.9),
    )
    return State(
        step=jnp.zeros((), jnp.int32),
        rollbacks=jnp.ones((), jnp.int32),
        theta=theta["params"],
        theta_stats=theta["batch_stats"],
        opt_theta=sgd.init(theta["params"]),
        phi=phi,
        phi_stats={},
        opt_phi=optax.adam(1e-3).init(phi),
        ema={"half": jnp.full((3,), 1.5, jnp.bfloat16), "mask": jnp.array([True, False])},
        ema_stats={},
    )


def bits(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(p), str(x.dtype), x.shape, np.array(x).tobytes()) for p, x in leaves
    ]


@pytest.fixture(scope="module")
def state():
    return make_state()


@pytest.fixture(scope="module")
def abstract(state):
    return jax.eval_shape(lambda: state)


@pytest.fixture(scope="module")
def two(state, tmp_path_factory):
    """A run's folder with the steps 10 and 20; tests copy it."""
    workdir = tmp_path_factory.mktemp("two")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(10, state._replace(step=jnp.int32(10)), {"best": 0.25})
        checkpoints.save(20, state._replace(step=jnp.int32(20)), {"best": 0.5})
    return workdir


@pytest.fixture
def run(two, tmp_path):
    """(workdir, Checkpoints, what it reported) with the steps 10 and 20."""
    workdir = shutil.copytree(two, tmp_path / "run")
    said = []
    with Checkpoints(workdir, report=said.append) as checkpoints:
        yield workdir, checkpoints, said


def files(workdir, step=20):
    folder = workdir / "checkpoints" / "last" / str(step)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_round_trip_is_bit_identical_with_named_tuples_and_empty_subtrees(run, state, abstract):
    _, checkpoints, said = run
    restored, notes, step = checkpoints.restore(abstract)
    assert bits(restored) == bits(state._replace(step=jnp.int32(20)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert isinstance(restored, State) and restored.phi_stats == {}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    assert (notes, step, said) == ({"best": 0.5}, 20, [])


def test_odd_bits_and_arrays_without_elements_survive(tmp_path):
    tree = {
        "nan": jnp.asarray(np.array([0x7FC00123, 0xFF800000], np.uint32).view(np.float32)),
        "zero": jnp.array([-0.0, 0.0]),
        "denormal": jnp.float16(6e-8),
        "none": None,
        "no_rows": jnp.zeros((0, 3), jnp.int8),
        "empty": (optax.EmptyState(), [], {}),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, tree, {})
        found = checkpoints.restore(jax.eval_shape(lambda: tree))
    assert bits(found[0]) == bits(tree)
    assert jax.tree.structure(found[0]) == jax.tree.structure(tree)


def test_restored_state_does_not_compile_the_step_again(run, state, abstract):
    step = jax.jit(lambda s: s._replace(step=s.step + 1))
    step(step(state))
    step(run[1].restore(abstract)[0])
    assert step._cache_size() == 1


def test_restored_state_may_be_donated(run, state, abstract):
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s), donate_argnums=0)
    state = state._replace(step=jnp.int32(20), ema={})
    restored = run[1].restore(abstract)[0]._replace(ema={})
    expected = bits(jax.tree.map(lambda x: x + x, state))
    assert bits(add(restored)) == expected
    assert bits(run[1].restore(abstract)[0]._replace(ema={})) == bits(state)


def test_donating_the_state_right_after_save_does_not_change_what_is_saved(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: -2 * x, s), donate_argnums=0)
    tree = {"w": jnp.arange(1 << 20, dtype=jnp.float32), "b": jnp.ones(3)}
    expected = bits(tree)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {})
        for _ in range(5):
            tree = step(tree)
        jax.block_until_ready(tree)
        checkpoints.wait()
        assert bits(checkpoints.restore(jax.eval_shape(lambda: tree))[0]) == expected


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_to_any_file_never_gives_other_numbers(run, state, abstract, damage):
    workdir, checkpoints, said = run
    rng = np.random.default_rng(0)
    fell_back = 0
    for path in files(workdir):
        good = path.read_bytes()
        for place in rng.integers(len(good), size=6 if damage == "flip" else 1):
            bad = bytearray(good)
            bad[place] ^= 1 << int(rng.integers(8))
            path.unlink()
            if damage != "remove":
                path.write_bytes({"flip": bad, "cut": good[:place], "empty": b""}[damage])
            said.clear()
            restored, notes, step = checkpoints.restore(abstract)
            assert bits(restored) == bits(state._replace(step=jnp.int32(step))), path
            assert (notes, len(said)) == (({"best": 0.5}, 0) if step == 20 else ({"best": 0.25}, 1))
            if step == 10:
                fell_back += 1
                start = f"checkpoint {workdir / 'checkpoints' / 'last' / '20'} is damaged: "
                assert said[0].startswith(start) and "\n" not in said[0]
                assert len(said[0]) < len(start) + 80
        path.write_bytes(good)
    assert fell_back >= 4


def test_flipped_byte_in_the_numbers_is_named_by_its_leaf(tmp_path):
    # Random bits do not compress, so that the largest file holds them as they are.
    tree = {"w": jax.random.bits(jax.random.key(0), (1 << 14,))}
    said = []
    with Checkpoints(tmp_path, report=said.append) as checkpoints:
        checkpoints.save(10, tree, {})
        checkpoints.save(20, tree, {})
        checkpoints.wait()
        largest = max(files(tmp_path), key=lambda path: path.stat().st_size)
        raw = bytearray(largest.read_bytes())
        raw[len(raw) // 2] ^= 1
        largest.write_bytes(raw)
        found = checkpoints.restore(jax.eval_shape(lambda: tree))
    folder = tmp_path / "checkpoints" / "last" / "20"
    assert said == [f"checkpoint {folder} is damaged: w does not match its checksum"]
    assert found[2] == 10 and bits(found[0]) == bits(tree)


@pytest.mark.parametrize("item", ["leaves", "manifest", "everything"])
def test_missing_item_or_empty_step_folder_is_damage(run, abstract, item):
    workdir, checkpoints, said = run
    folder = workdir / "checkpoints" / "last" / "20"
    if item == "everything":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        shutil.rmtree(folder / item)
    assert checkpoints.restore(abstract)[2] == 10
    assert len(said) == 1 and said[0].startswith(f"checkpoint {folder} is damaged: ")


def test_no_checkpoint_is_none_and_leaves_no_trace(tmp_path, abstract):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(abstract) is None
        assert checkpoints.steps() == checkpoints.steps("best") == []
    assert not (tmp_path / "new").exists()


def test_none_intact_is_an_error_and_not_a_fresh_start(run, abstract):
    workdir, checkpoints, said = run
    for step in (10, 20):
        for path in files(workdir, step):
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no intact checkpoint among the 2 in .*last$"):
        checkpoints.restore(abstract)
    with pytest.raises(CheckpointError, match="no intact"):
        restore_any(workdir, report=said.append)
    assert len(said) == 4


def test_other_architecture_is_refused_with_both_shapes(run):
    wide = jax.eval_shape(lambda: make_state(width=8))
    with pytest.raises(CheckpointError) as error:
        run[1].restore(wide)
    line = str(error.value)
    assert "theta/Conv_0/bias is float32[4] there and float32[8] here" in line
    assert "more leaves" in line and "\n" not in line and run[2] == []


def test_other_optimiser_or_dtype_is_refused(run, abstract):
    with pytest.raises(
        CheckpointError, match=r"opt_phi/0/count is int32\[\] there and absent here"
    ):
        run[1].restore(abstract._replace(opt_phi=optax.EmptyState()))
    with pytest.raises(CheckpointError, match=r"step is int32\[\] there and float32\[\] here"):
        run[1].restore(abstract._replace(step=jax.ShapeDtypeStruct((), jnp.float32)))


def test_newest_are_kept_and_one_best(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 10):
            checkpoints.save(step, state, {"step": step})
            checkpoints.save(step, state, {"step": step}, kind="best")
            checkpoints.save(step, state, {"step": step}, kind="best_ema")
        checkpoints.wait()
        assert checkpoints.steps() == [3, 10]
        assert checkpoints.steps("best") == checkpoints.steps("best_ema") == [10]


def test_same_step_again_keeps_an_equal_one_and_replaces_another(run, state, abstract):
    workdir, checkpoints, _ = run
    folder = workdir / "checkpoints" / "last" / "20"
    (folder / "mark").touch()
    checkpoints.save(20, state._replace(step=jnp.int32(20)), {"best": 0.5})
    checkpoints.wait()
    assert (folder / "mark").exists()
    checkpoints.save(20, state, {"best": 0.75})
    restored, notes, step = checkpoints.restore(abstract)
    assert bits(restored) == bits(state) and (notes, step) == ({"best": 0.75}, 20)
    assert checkpoints.steps() == [10, 20]


def test_an_equal_step_saved_again_is_the_newest(run, state, abstract):
    _, checkpoints, _ = run
    checkpoints.save(10, state._replace(step=jnp.int32(10)), {"best": 0.25})
    checkpoints.wait()
    assert checkpoints.steps() == [10]
    restored, notes, step = checkpoints.restore(abstract)
    assert (int(restored.step), notes, step) == (10, {"best": 0.25}, 10)


def test_a_folder_under_another_steps_name_is_passed_over(run, abstract):
    workdir, checkpoints, said = run
    folder = workdir / "checkpoints" / "last"
    shutil.copytree(folder / "10", folder / "99")
    assert checkpoints.restore(abstract)[1:] == ({"best": 0.5}, 20)
    (line,) = said
    assert line.startswith(f"checkpoint {folder / '99'} is damaged: it was saved as step 10,")
    shutil.rmtree(folder / "10")
    shutil.rmtree(folder / "20")
    with pytest.raises(CheckpointError, match="no intact checkpoint among the 1"):
        checkpoints.restore(abstract)


def test_a_checkpoint_of_before_manifests_said_their_step_is_read(run, state, abstract):
    workdir, checkpoints, said = run
    (path,) = (p for p in files(workdir) if p.parent.name == "manifest" and p.name == "metadata")
    body = json.loads(path.read_text())
    assert body.pop("step", None) == 20 and body.pop("sha256")
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**body, "sha256": seal}))
    restored, notes, step = checkpoints.restore(abstract)
    assert bits(restored) == bits(state._replace(step=jnp.int32(20)))
    assert (notes, step, said) == ({"best": 0.5}, 20, [])


@pytest.mark.parametrize("resaved", [15, 20])
def test_after_falling_back_the_damaged_newer_step_does_not_stay(run, state, abstract, resaved):
    workdir, checkpoints, said = run
    for path in files(workdir):
        path.write_bytes(b"")
    assert checkpoints.restore(abstract)[2] == 10
    with Checkpoints(workdir) as again:
        again.save(resaved, state._replace(step=jnp.int32(20)), {"best": 0.5})
        again.wait()
        assert again.steps() == [10, resaved]
        said.clear()
    assert checkpoints.restore(abstract)[2] == resaved and said == []


SAVE_AND_DIE = """
import sys, jax.numpy as jnp, numpy as np
from l2ljax.checkpoint import Checkpoints
big = jnp.asarray(np.random.default_rng(0).integers(256, size=1 << 26, dtype=np.uint8))
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, {"w": big}, {})
    checkpoints.wait()
    print("first", flush=True)
    checkpoints.save(2, {"w": big + 1}, {})
    print("second", flush=True)
"""


def test_kill_9_while_saving_leaves_the_one_before(tmp_path):
    root = Path(__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", SAVE_AND_DIE, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    )
    with child:
        assert child.stdout.readline() == "first\n"
        folder = tmp_path / "checkpoints" / "last"
        while not (folder / "2.orbax-checkpoint-tmp").exists() and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    saved = np.random.default_rng(0).integers(256, size=1 << 26, dtype=np.uint8)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore({"w": jax.ShapeDtypeStruct(saved.shape, saved.dtype)})
        # On a busy machine the kill may come when the second is complete.
        expected = {1: saved, 2: saved + np.uint8(1)}[found[2]]
        assert np.array_equal(found[0]["w"], expected)
        assert found[2] == max(checkpoints.steps())


def test_unfinished_folder_is_ignored_by_readers_and_cleaned_by_the_next_save(run, state, abstract):
    workdir, checkpoints, said = run
    folder = workdir / "checkpoints" / "last"
    shutil.copytree(folder / "20", folder / "25.orbax-checkpoint-tmp")
    assert checkpoints.restore(abstract)[2] == 20 and checkpoints.steps() == [10, 20]
    assert (folder / "25.orbax-checkpoint-tmp").exists(), "its run may still be writing"
    checkpoints.save(30, state, {})
    checkpoints.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["20", "30"] and said == []


def test_full_disk_is_one_line_and_the_one_before_stays(run, state, abstract):
    workdir, checkpoints, _ = run
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, hard))
    big = {"w": jax.random.bits(jax.random.key(0), (1 << 18,))}
    try:
        checkpoints.save(30, big, {})
        with pytest.raises(CheckpointError, match=r"^cannot write to .*last: .*File too large$"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.restore(abstract)[2] == 20


def test_workdir_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is a file: give the folder of a run$"):
        Checkpoints(tmp_path / "file")


def test_notes_that_are_not_json_are_refused_before_anything_is_written(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, state, {"metrics": object()})
    assert list(tmp_path.iterdir()) == []


def test_restore_any_gives_nested_dicts_without_knowing_the_structure(run, state):
    workdir, _, _ = run
    tree, notes, step = restore_any(workdir)
    assert bits(tree["theta"]) == bits(state.theta)
    assert tree["opt_phi"]["0"]["count"].dtype == np.int32
    assert tree["phi_stats"] == {} and tree["opt_theta"]["0"] == {}
    for leaf in jax.tree.leaves(tree):
        assert type(leaf) is np.ndarray and leaf.flags.writeable
        assert leaf.base is None or leaf.base.nbytes == leaf.nbytes, "a leaf pins all the others"
    assert (notes, step) == ({"best": 0.5}, 20)


def test_restore_any_falls_back_too_and_names_a_folder_without_checkpoint(run, tmp_path):
    workdir, _, said = run
    for path in files(workdir):
        path.write_bytes(b"")
    assert restore_any(workdir, report=said.append)[2] == 10 and len(said) == 1
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/none holds no checkpoint$"):
        restore_any(tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_any(workdir, kind="best")


def test_fingerprint_is_of_the_numbers_and_names_and_not_of_the_container(run, state):
    assert fingerprint(state.opt_phi) == fingerprint(restore_any(run[0])[0]["opt_phi"])
    other = jax.tree.map(lambda x: x, state.theta)
    other["Dense_0"]["bias"] = other["Dense_0"]["bias"].at[0].set(-0.0)
    assert fingerprint(other) != fingerprint(state.theta)
    assert fingerprint({"a": jnp.zeros(2)}) != fingerprint({"b": jnp.zeros(2)})
    assert fingerprint({"a": jnp.zeros(2)}) != fingerprint({"a": jnp.zeros(2, jnp.int32)})
    assert fingerprint({"a": jnp.zeros((2, 1))}) != fingerprint({"a": jnp.zeros((1, 2))})


def test_orbax_keeps_quiet_and_others_are_heard(run, state, abstract):
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    absl = logging.getLogger("absl")
    level, before = absl.level, absl.filters[:]
    absl.addHandler(handler)
    absl.setLevel(logging.INFO)
    try:
        run[1].save(30, state, {})
        run[1].restore(abstract)
        assert heard == []
        absl.info("from elsewhere")
        assert len(heard) == 1
        run[1].close()
        assert absl.filters == before
    finally:
        absl.setLevel(level)
        absl.removeHandler(handler)
