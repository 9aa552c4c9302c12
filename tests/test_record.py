import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.errors import RecordError
from l2ljax.record import Record, read


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def write(workdir, steps, **options):
    with Record(workdir, tensorboard=False, clock=lambda: 1.0, **options) as record:
        for step in steps:
            record.write(step, {"theta/loss": 1 / (step + 1), "phi/gain": step}, epoch=step / 10)


def test_record_is_one_json_line_with_full_precision_on_disk_at_once(tmp_path):
    with Record(tmp_path / "new" / "run", tensorboard=False, clock=lambda: 1234.56789) as record:
        record.write(3, {"loss": np.float32(0.1), "n": jnp.int32(7)}, epoch=0.5)
        assert lines(tmp_path / "new" / "run") == [
            '{"step": 3, "epoch": 0.5, "time": 1234.568, "loss": 0.10000000149011612, "n": 7.0}'
        ]
        record.write(np.int64(4), {})
    assert json.loads(lines(tmp_path / "new" / "run")[1]) == {"step": 4, "time": 1234.568}


def test_numbers_that_are_not_finite_become_null_and_read_as_nan(tmp_path):
    with Record(tmp_path, tensorboard=False) as record:
        record.write(1, {"a": math.nan, "b": -math.inf, "c": jnp.inf, "d": 0.0})
    record = json.loads(lines(tmp_path)[0], parse_constant=pytest.fail)
    assert [record[name] for name in "abcd"] == [None, None, None, 0.0]
    (step,) = read(tmp_path / "metrics.jsonl")
    assert all(math.isnan(step[name]) for name in "abc") and step["d"] == 0


@pytest.mark.parametrize("killed_at", [6, 7, 9])
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, killed_at):
    write(tmp_path / "whole", range(1, 11))
    write(tmp_path / "cut", range(1, killed_at + 1))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epo')
    write(tmp_path / "cut", range(7, 11), resume_step=6)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["metrics.jsonl"]


def test_kept_lines_keep_their_clock_and_their_bytes(tmp_path):
    odd = '{"step":2,   "time": 5.0, "theta/loss": 1e-9}'
    (tmp_path / "metrics.jsonl").write_text(odd + '\n{"step": 3, "time": 6.0}\n')
    Record(tmp_path, tensorboard=False, resume_step=2).close()
    assert lines(tmp_path) == [odd]


def test_fresh_run_does_not_keep_the_steps_of_a_former_one(tmp_path):
    write(tmp_path, range(1, 4))
    write(tmp_path, range(1, 3))
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2]


def test_torn_last_line_is_not_read_even_if_it_parses(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for torn in ('{"step": 2, "a', '{"step": 2}', "\0\0\0"):
        path.write_text('{"step": 1, "a": 1.0}\n' + torn)
        assert read(path) == [{"step": 1, "a": 1.0}]
    path.write_text("")
    assert read(path) == []


@pytest.mark.parametrize("line", ["{", "[1]", "null", '{"a": 1}', '{"step": "1"}', "\xff"])
def test_spoilt_line_in_the_middle_is_named_and_nothing_is_changed(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b'\n{"step": 2}\n')
    before = path.read_bytes()
    for action in (lambda: read(path), lambda: Record(tmp_path, tensorboard=False)):
        with pytest.raises(RecordError, match=r"metrics\.jsonl, line 2: no record of a step$"):
            action()
    assert path.read_bytes() == before


def test_records_of_a_step_are_merged_and_the_last_wins(tmp_path):
    with Record(tmp_path, tensorboard=False, clock=lambda: 2.0) as record:
        record.write(5, {"a": 1, "b": 1})
        record.write(4, {"a": 0})
        record.write(5, {"b": 2, "c": 3}, epoch=1)
    assert read(tmp_path / "metrics.jsonl") == [
        {"step": 4, "time": 2, "a": 0},
        {"step": 5, "time": 2, "epoch": 1, "a": 1, "b": 2, "c": 3},
    ]


def test_metric_may_not_take_the_name_of_a_field(tmp_path):
    with Record(tmp_path, tensorboard=False) as record:
        with pytest.raises(ValueError, match="'epoch' is no name for a metric"):
            record.write(1, {"epoch": 2.0})
    assert lines(tmp_path) == []


def test_place_that_cannot_be_written_or_read_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"^cannot write .*file/metrics.jsonl: "):
        Record(tmp_path / "file", tensorboard=False)
    with pytest.raises(RecordError, match=r"^cannot read .*metrics.jsonl: No such file"):
        read(tmp_path / "metrics.jsonl")


def test_tensorboard_files_hold_tags_and_values_and_drop_what_was_undone(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    write(tmp_path, [], resume_step=0)
    with Record(tmp_path, tensorboard=True, resume_step=6, clock=lambda: 9.0) as record:
        record.write(7, {"theta/loss": 0.25, "phi/gain": math.nan})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert b"theta/loss" in path.read_bytes() and b"phi/gain" not in path.read_bytes()

    raw, events = path.read_bytes(), []
    while raw:  # a record: length (8 bytes), its checksum (4), data, checksum (4)
        size = int.from_bytes(raw[:8], "little")
        events.append(Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    starts = [event.step for event in events if event.session_log.status == 1]
    assert starts == [7], "TensorBoard drops earlier points from step 7 on"
    (point,) = [event for event in events if event.summary.value]
    assert (point.step, point.wall_time) == (7, 9.0)
    assert point.summary.value[0].simple_value == 0.25


def test_without_tensorboardx_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RecordError, match=r"pip install 'l2ljax\[plots\]'"):
        Record(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    Record(tmp_path / "run", tensorboard=False).close()


def test_import_does_not_load_tensorboardx():
    script = "import sys, l2ljax.record; assert 'tensorboardX' not in sys.modules"
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_what_is_closed_rewound_or_resumed_is_on_the_disk_itself(tmp_path, monkeypatch):
    synced, fsync = {}, os.fsync

    def remember(number):
        fsync(number)
        synced[os.fstat(number).st_ino] = os.fstat(number).st_size

    monkeypatch.setattr(os, "fsync", remember)
    path = tmp_path / "metrics.jsonl"

    def on_the_disk():
        found = path.stat()
        return synced.get(found.st_ino) == found.st_size and tmp_path.stat().st_ino in synced

    with Record(tmp_path, tensorboard=False) as record:
        record.write(1, {"a": 1})
        record.write(2, {"a": 2})
        assert not on_the_disk()
        record.rewind(1)
        assert on_the_disk()
        record.write(2, {"a": 3})
    assert on_the_disk()
    Record(None, tensorboard=False).close()


def test_a_rewound_record_goes_on_from_the_step(tmp_path):
    with Record(tmp_path, tensorboard=False, clock=lambda: 1.0) as record:
        for step in (1, 2, 3):
            record.write(step, {"a": step})
        record.rewind(1)
        record.write(2, {"a": 20.0})
    assert [(line["step"], line["a"]) for line in read(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 20.0),
    ]
