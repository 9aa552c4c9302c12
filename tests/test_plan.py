"""Plans for machines that are not here: programs read and counted, and runs costed."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import pytest

from l2ljax.commands.plan import main
from l2ljax.errors import InputError
from l2ljax.plan import compiler, machines, make_plan
from l2ljax.plan.count import count
from l2ljax.plan.hlo import Shape, read
from l2ljax.plan.roofline import roofline
from processes import launch

SMALL = {"method": "grad_l2l", "dataset": "digits", "model": "mlp", "batch_size": 64}


def lowered_text(f, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(f).lower(*arguments).as_text(dialect="hlo")


def conv(x, kernel, stride=1, padding="SAME"):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers
    )


def test_a_product_counts_two_for_every_multiplication():
    text = lowered_text(lambda a, b: a @ b, (3, 5), (5, 7))
    assert count(read(text)).flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize("stride,taps", [(1, 3 * 6 - 2), (2, 3 * 3 - 1)])
def test_a_convolution_counts_real_pixels_and_its_gradients_as_much_as_itself(stride, taps):
    # 3 taps along a side of 6; at a border one of them falls on padding, at stride 2 on one only.
    x, kernel = (4, 6, 6, 3), (3, 3, 3, 5)
    forward = 2 * 4 * taps**2 * 3 * 5

    def loss(x, kernel):
        return (conv(x, kernel, stride) ** 2).sum()

    assert count(read(lowered_text(lambda x, k: conv(x, k, stride), x, kernel))).flops == forward
    both = lowered_text(jax.grad(loss, argnums=(0, 1)), x, kernel)
    assert count(read(both)).flops == 3 * forward


def test_a_loop_counts_as_often_as_it_runs_compiled_or_not():
    def unrolled(a):
        for _ in range(6):
            a = a @ a
        return a

    def scanned(a):
        return jax.lax.scan(lambda c, _: (c @ c, None), a, length=6)[0]

    def nested(a):
        return jax.lax.fori_loop(
            0, 3, lambda i, a: jax.lax.fori_loop(0, 2, lambda j, b: b @ b, a), a
        )

    for f in (unrolled, scanned, nested):
        assert count(read(lowered_text(f, (8, 8)))).flops == 6 * 2 * 8**3
        compiled = jax.jit(f).lower(jnp.zeros((8, 8))).compile().as_text() or ""
        assert count(read(compiled)).flops == 6 * 2 * 8**3


def test_a_loop_without_a_bound_is_told():
    text = lowered_text(
        lambda a: jax.lax.while_loop(lambda c: jnp.sum(c) < 1e9, lambda c: c @ c, a), (8, 8)
    )
    counted = count(read(text))
    assert counted.endless == 1
    assert counted.flops == 2 * 8**3


CUDNN = """
HloModule jit_f

ENTRY %main (x: bf16[8,4,4,16], k: bf16[3,3,16,32], g: bf16[8,4,4,32]) -> bf16[8,4,4,32] {
  %x = bf16[8,4,4,16]{3,2,1,0} parameter(0)
  %k = bf16[3,3,16,32]{3,2,1,0} parameter(1)
  %g = bf16[8,4,4,32]{3,2,1,0} parameter(2)
  %a.1 = (bf16[8,4,4,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
  %a.2 = (bf16[8,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardInput"
  %a.3 = (f32[3,3,16,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %a.4 = (bf16[8,32]{1,0}, s8[64]{0}) custom-call(%p, %q), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %p = bf16[8,16]{1,0} bitcast(%x)
  %q = bf16[16,32]{1,0} bitcast(%k)
  ROOT %r = bf16[8,4,4,32]{3,2,1,0} get-tuple-element(%a.1), index=0
}
"""  # noqa: E501


def test_calls_of_cudnn_and_cublas_are_products():
    kernels = count(read(CUDNN)).kernels
    one = 2 * 8 * (3 * 4 - 2) ** 2 * 16 * 32
    assert [k.flops for k in kernels] == [one, one, one, 2 * 8 * 16 * 32]
    assert {k.precision for k in kernels} == {"bf16"}
    assert kernels[0].bytes == 2 * (8 * 16 * 32 + 8 * 16 * 16 + 9 * 16 * 32)


TPU = """
HloModule jit_f

%taken (p.0: u8[1000,128], p.1: s32[]) -> u8[8,128] {
  %p.0 = u8[1000,128]{1,0:T(8,128)(4,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = u8[8,128]{1,0:T(8,128)(4,1)} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={8,128}
}

%body (c: f32[8,16]) -> f32[8,16] {
  %c = f32[8,16]{1,0:T(8,128)} parameter(0)
  ROOT %reduced = f32[8,16]{1,0:T(8,128)} all-reduce(%c), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: u8[1000,128], i: s32[], a: f32[8,16]) -> f32[8,16] {
  %x = u8[1000,128]{1,0:T(8,128)(4,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %a = f32[8,16]{1,0:T(8,128)} parameter(2)
  %near = f32[8,16]{1,0:T(8,128)S(1)} negate(%a)
  %f = u8[8,128]{1,0:T(8,128)(4,1)} fusion(%x, %i), kind=kLoop, calls=%taken
  ROOT %w = f32[8,16]{1,0:T(8,128)} while(%a), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def test_padding_slices_loops_and_collectives_of_a_tpu_are_seen():
    counted = count(read(TPU))
    near, taken, reduced = counted.kernels
    assert Shape("f32", (8, 16), "1,0:T(8,128)").padded_bytes == 4 * 8 * 128
    assert near.bytes == 4 * 8 * 128  # what stays in the chip's own memory passes nowhere
    assert taken.bytes == 2 * 8 * 128 + 4  # of a slice no more than the slice, and its index
    assert reduced.times == 5
    assert counted.collectives["all-reduce"] == (5, 5 * 4 * 8 * 16)


def test_every_machine_has_a_shape_and_an_unknown_one_the_nearest():
    for name in machines.names():
        machine = machines.find(name)
        sides = machine.topology.rpartition(":")[2].split("x")
        assert math.prod(map(int, sides)) == machine.devices
    with pytest.raises(InputError, match="unknown machine 'h100x7': did you mean 'h100x"):
        machines.find("h100x7")


def test_a_roofline_is_bound_by_products_or_by_bytes():
    machine = machines.find("h100")
    counted = count(read(CUDNN))
    seconds = roofline(counted, machine)
    by_bytes = sum(k.bytes for k in counted.kernels) / machine.chip.bandwidth
    assert seconds.kernels == pytest.approx(by_bytes)
    assert seconds.collectives == 0
    slow = machine._replace(chip=machine.chip._replace(bf16=1e9))
    assert roofline(counted, slow).kernels == pytest.approx(counted.flops / 1e9)


@pytest.fixture
def no_compilers(monkeypatch):
    packages = {name for _, names in compiler.EXTRAS.values() for name in names}
    find = importlib.util.find_spec

    def found(name, *rest):
        return None if name in packages else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_without_a_compiler_products_are_counted_and_the_line_says_so(
    no_compilers, tmp_path, capsys
):
    plan = make_plan({**SMALL, "method": "plain", "epochs": 3}, "v5e-4")
    assert not plan.training.compiled
    sizes = [(64, 256), (256, 256), (256, 10)]
    products = sum(a * b for a, b in sizes)
    # Three products a layer, but no gradient with respect to the images.
    expected = 2 * 64 * (3 * products - sizes[0][0] * sizes[0][1]) / 4
    assert plan.training.flops == pytest.approx(expected, rel=0.05)
    assert plan.rows == 16
    assert "pip install 'l2ljax[plan-tpu]'" in plan.warnings[0]
    file, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    flags = [f"--{name}={value}" for name, value in SMALL.items() if name != "method"]
    flags += ["--machine=v5e-4,h100", "--methods=plain,pgm", f"--json={file}"]
    assert main([*flags, f"--picture={picture}"]) == 0
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert printed.count("[lowered, not optimised]") == 4
    found = json.loads(file.read_text())
    assert [(p["machine"], p["config"]["method"]) for p in found] == [
        *[("v5e-4", "plain"), ("h100", "plain"), ("v5e-4", "pgm"), ("h100", "pgm")]
    ]
    assert found[2]["training"]["flops"] > 5 * found[0]["training"]["flops"]


@pytest.mark.parametrize(
    "flags,words",
    [
        ([], "--machine=NAME is needed"),
        (["--machine=v5e-5"], "unknown machine 'v5e-5': did you mean 'v5e-"),
        (["--machine=v5e-256", "--batch_size=100"], "100 images does not divide over 256 devices"),
        (["--machine=h100", "--methods=pgm", "--method=plain"], "give one of them"),
        (["--machine=h100", "--dataset=cifar11"], "did you mean 'cifar10'"),
        (["--machine=h100", "--workdirs=a"], "did you mean 'workdir'"),
    ],
)
def test_bad_input_is_one_line(no_compilers, capsys, flags, words):
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("machine,package", [("v5e-4", "libtpu"), ("h100x2", "jax_cuda12_plugin")])
@pytest.mark.parametrize("parallel", ["sharding", "pmap"])
def test_a_step_is_compiled_for_a_machine_that_is_not_here(machine, package, parallel, tmp_path):
    pytest.importorskip(package)
    file, flags = tmp_path / "plan.json", {**SMALL, "batch_size": 256, "steps_per_call": 2}
    flags |= {"parallel": parallel, "machine": machine, "json": file, "plan_cache": False}
    process = launch("experiments/plan.py", *(f"--{name}={value}" for name, value in flags.items()))
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.count("[compiled]") == 1
    (plan,) = json.loads(file.read_text())
    program = plan["training"]
    assert program["compiled"] and plan["fits"] and plan["layout"] == parallel
    assert program["collectives"]["all-reduce"]["count"] >= 1
    assert program["memory"]["arguments"] > 0
    lowered = make_plan(SMALL | {"batch_size": 256}, "gtx1080ti")  # XLA compiles for it nowhere
    whole = lowered.training.flops
    assert program["flops"] * plan["devices"] == pytest.approx(whole, rel=0.1)
