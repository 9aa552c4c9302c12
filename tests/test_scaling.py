"""The scaling benchmark: its table, what it refuses, and one run."""

import json

import pytest

import scaling


def row(kind, devices, layout, batch, ms):
    return {"kind": kind, "devices": devices, "layout": layout, "batch": batch, "ms": ms} | {
        "collectives": 0.25
    }


def test_images_per_second_are_compared_with_the_first_number_of_devices():
    rows = [
        row("strong", 1, "none", 128, [40.0]),
        row("strong", 4, "pmap", 128, [10.0, 20.0, 90.0]),
    ]
    rows += [row("weak", 1, "none", 128, [40.0]), row("weak", 2, "pmap", 256, [80.0])]
    _, *lines = scaling.table(rows)
    assert [line[4:7] for line in lines] == [
        ["40.0", "3200", "1.00"],
        ["20.0", "6400", "2.00"],
        ["40.0", "3200", "1.00"],
        ["80.0", "3200", "1.00"],
    ]
    assert lines[0][7] == "25.0 %"


@pytest.mark.parametrize("flag", ["--devices=1,two", "--devices=0", "--steps=0"])
def test_bad_flags_are_refused(flag, capsys):
    assert scaling.main([flag]) == 2
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_one_and_two_devices_are_measured(tmp_path, capsys):
    flags = ["--devices=1,2", "--layouts=pmap", "--rounds=1", "--steps=2", "--method=pgm"]
    assert scaling.main([*flags, "--model=mlp", f"--out={tmp_path / 'scaling'}"]) == 0
    report = json.loads((tmp_path / "scaling.json").read_text())
    found = [(r["kind"], r["devices"], r["layout"], r["batch"]) for r in report["rows"]]
    strong = [("strong", 1, "none", 128), ("strong", 2, "pmap", 128)]
    assert found == [*strong, ("weak", 1, "none", 128), ("weak", 2, "pmap", 256)]
    assert all(r["made_with"]["device"].startswith(f"{r['devices']} x") for r in report["rows"])
    assert [r["collectives"] > 0 for r in report["rows"]] == [False, True, False, True]
    assert report["command"] in (tmp_path / "scaling.md").read_text()
    assert "images per second" in capsys.readouterr().out
