"""Scripts of this repository as processes of their own, on several devices of the CPU if asked."""

import importlib.util
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent

QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)


def known(flag):
    """Whether this jaxlib has the flag: XLA ends a program that names one it does not know.

    The name of a flag stands between two zeros; one that is no more may be named elsewhere still.
    """
    name = b"\0" + flag.removeprefix("--").split("=")[0].encode() + b"\0"
    spec = importlib.util.find_spec("jaxlib")
    for path in pathlib.Path(spec.origin).parent.glob("*.so"):  # pyright: ignore
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(name) >= 0:
                return True
    return False


def quick_flags(given):
    """The user's flags after ours, so that his win; a worker has ours already from its master."""
    return given if QUICK[0] in given else " ".join([*filter(known, QUICK), given])


def environment(devices=1):
    """Ours, with so many devices and the repository's modules in reach."""
    flags = f"--xla_force_host_platform_device_count={devices} {os.environ['XLA_FLAGS']}"
    path = os.pathsep.join(str(ROOT / name) for name in (".", "tests"))
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path}


def launch(script, *flags, devices=1):
    """The process, its output kept."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch_together(script, *flags, processes, devices):
    """So many processes that find each other on this machine, with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    hosts = [f"--coordinator={address}", f"--num_processes={processes}"]
    return [
        launch(script, *flags, *hosts, f"--process_id={i}", devices=devices)
        for i in range(processes)
    ]


def wait_for_checkpoint(workdir, process, beyond=-1, seconds=120):
    """Until the run in workdir has saved itself at a step beyond that one."""
    until = time.monotonic() + seconds
    folder = workdir / "checkpoints" / "last"
    while time.monotonic() < until and process.poll() is None:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        newest = max((int(name) for name in names if name.isdigit()), default=-1)
        if newest > beyond:
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint appeared: {process.communicate()}")


def timeless(written):
    """What a file says but for the seconds that things took."""
    if isinstance(written, dict):
        return {k: timeless(v) for k, v in written.items() if k != "seconds"}
    return [timeless(v) for v in written] if isinstance(written, list) else written
