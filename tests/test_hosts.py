"""Several processes train one run; a run moves between numbers of devices; nobody waits in vain."""

import json
import re
import signal
import threading

import numpy as np
import pytest

from l2ljax import hosts
from l2ljax.checkpoint import Checkpoints
from l2ljax.commands import evaluate, train
from l2ljax.errors import InputError
from l2ljax.record import read
from processes import launch, launch_together, wait_for_checkpoint

SCRIPT = "experiments/train.py"
FLAGS = ["--dataset=digits", "--method=pgm", "--model=mlp", "--batch_size=128", "--inner_steps=2"]
FLAGS += ["--theta_lr=0.01", "--noplots", "--notensorboard", "--final_attacks=clean,fgsm"]
FLAGS += ["--log_every=1", "--on_overfitting=rollback", "--epochs=10", "--validate_every=5"]


def ended(process, code=0):
    out, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return out, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert train.main([*FLAGS, f"--workdir={workdir}"]) == 0
    return workdir


GLOO = set("Gloo Rank is connected to peer ranks Expected number of".split())
"""The words of the line that Gloo writes for each process that it has connected."""


def assert_same_run(workdir, other):
    a, b = (read(folder / "metrics.jsonl") for folder in (workdir, other))
    assert [line["step"] for line in a] == [line["step"] for line in b]
    losses = [[line["theta/loss"] for line in lines] for lines in (a, b)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    tested = [
        json.loads((folder / "summary.json").read_text())["test"] for folder in (workdir, other)
    ]
    for attack, result in tested[0]["last"].items():
        assert abs(result["accuracy"] - tested[1]["last"][attack]["accuracy"]) <= 0.01


def test_a_run_moves_between_numbers_of_devices(alone, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    flags = [*FLAGS, f"--workdir={workdir}"]
    process = launch(SCRIPT, *flags, devices=8)
    wait_for_checkpoint(workdir, process)
    process.send_signal(signal.SIGTERM)
    ended(process, 128 + signal.SIGTERM)
    on_eight = read(workdir / "metrics.jsonl")[-1]["step"]

    def stop_and_save(self, *given, save=Checkpoints.save, **how):
        patch.undo()
        signal.raise_signal(signal.SIGTERM)
        save(self, *given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_and_save)
        assert train.main(flags) == 128 + signal.SIGTERM
    assert f"resumed at step {on_eight}" in capsys.readouterr().err
    assert on_eight < read(workdir / "metrics.jsonl")[-1]["step"]
    out, said = ended(launch(SCRIPT, *flags, "--parallel=pmap", devices=4))
    assert out.startswith("pmap over 4 CPU devices\n") and "resumed at step" in said
    assert_same_run(workdir, alone)


def test_two_processes_write_one_run_and_stop_and_resume_together(alone, tmp_path):
    workdir = tmp_path / "run"
    flags = [*FLAGS, f"--workdir={workdir}"]
    started = launch_together(SCRIPT, *flags, processes=2, devices=2)
    wait_for_checkpoint(workdir, started[0])
    started[1].send_signal(signal.SIGTERM)  # one is enough
    for process in started:
        ended(process, 128 + signal.SIGTERM)
    started = launch_together(SCRIPT, *flags, processes=2, devices=2)
    (out, said), (silent, whispered) = (ended(process) for process in started)
    assert out.startswith("the batch sharded over 4 CPU devices of 2 processes\n")
    assert "resumed at step" in said
    assert "theta sha256" in out
    # Gloo's threads write into each other's lines, so that its words are known and not their order.
    assert set(re.findall("[A-Za-z]+", silent)) <= GLOO
    assert "resumed" not in whispered and "step/s" not in whispered
    assert_same_run(workdir, alone)


def test_a_process_that_fails_ends_and_so_do_the_others(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("of somebody else")
    flags = [*FLAGS, f"--workdir={tmp_path / 'run'}"]
    first, other = launch_together(SCRIPT, *flags, processes=2, devices=1)
    _, said = ended(first, 2)
    assert "process 0: " in said and "is not empty and holds no run" in said
    other.communicate(timeout=200)
    assert other.returncode


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--coordinator=here", "is no HOST:PORT such as"),
        ("--coordinator=here:12", "needs --num_processes and --process_id"),
        ("--coordinator=here:12 --num_processes=2 --process_id=2", "is none of --num_processes=2"),
        ("--num_processes=2", "need --coordinator=HOST:PORT"),
        ("--coordinator=none --process_id=1", "need --coordinator=HOST:PORT"),
        ("--coordinator=here:12 --init_timeout=0", "--init_timeout=0 must be positive"),
        (
            "--coordinator=localhost:1 --num_processes=2 --process_id=1 --init_timeout=1",
            "localhost:1 did not answer within 1 s",
        ),
    ],
)
def test_a_meeting_that_cannot_be_is_one_line(flags, message, tmp_path, capsys):
    assert train.main([*flags.split(), f"--workdir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def meet_as(address, *each):
    """What becomes of every (count, number) that comes to that address."""
    told = {}

    def come(count, number, timeout):
        try:
            hosts.meet(address, count, number, timeout)
            told[number] = "met"
        except InputError as error:
            told[number] = str(error)

    threads = [threading.Thread(target=come, args=one) for one in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def address():
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def test_processes_meet_or_hear_why_not():
    told = meet_as(address(), (3, 0, 20), (3, 2, 20), (3, 1, 20))
    assert told == {0: "met", 1: "met", 2: "met"}
    told = meet_as(address(), (3, 0, 20), (2, 1, 20))
    for line in told.values():
        assert "process 1 has --num_processes=2, process 0 has 3" in line
    told = meet_as(address(), (3, 0, 1), (3, 1, 20))
    for line in told.values():
        assert "process 2 of 3 did not come within 1 s" in line


def test_slurm_and_tpu_pods_are_found():
    assert hosts.found({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"})
    assert hosts.found({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"})
    assert not hosts.found({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert not hosts.found({"TPU_WORKER_HOSTNAMES": "localhost"}) and not hosts.found({})


def test_an_evaluation_over_eight_devices_finds_what_one_finds(alone, tmp_path):
    flags = [f"--workdir={alone}", "--attacks=pgm10x2,autoattack", "--num_examples=60"]
    flags += ["--apgd_steps=5", "--fab_steps=5", "--square_queries=20", "--targets=2"]
    one, eight = ([*flags, "--batch_size=25", f"--output={tmp_path / n}"] for n in ("1", "8"))
    assert evaluate.main(one) == 0
    out, _ = ended(launch("experiments/evaluate.py", *eight, devices=8))
    assert "\n8 x CPU" in out
    reports = [json.loads((tmp_path / n).read_text()) for n in ("1", "8")]
    found = [[r["robust"] for r in report["results"].values()] for report in reports]
    assert found[0] == found[1] and "1" in found[0][1] and "0" in found[0][1]
