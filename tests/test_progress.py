import io
import signal
import threading

import jax.numpy as jnp
import pytest

from l2ljax.terminal import Interrupted, Progress, Stop, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (100 * 3600 - 1, "100 h 00 min"),
    ],
)
def test_duration_is_rounded_without_sixty(seconds, text):
    assert duration(seconds) == text


def run(stream, total=100, done=0, compile_seconds=50.0, step_seconds=0.5, **options):
    clock = Clock()
    with Progress(total, label="run", stream=stream, done=done, clock=clock, **options) as progress:
        clock.now += compile_seconds
        for step in range(done + 1, total + 1):
            progress.update(step, epoch=step / 10, loss=1.23412, clean=0.706, robust=0.45)
            clock.now += step_seconds


def test_without_a_terminal_there_is_a_plain_line_per_tenth():
    stream = io.StringIO()
    run(stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10 and "\r" not in stream.getvalue()
    assert lines[3] == (
        "run [########............]  40 %  epoch 4.0  2 step/s  30.0 s left"
        "  loss 1.234 clean 71 % robust 45 %"
    )
    assert "100 %" in lines[-1] and "left" not in lines[-1]


def test_resumed_run_does_not_repeat_the_tenths_done():
    stream = io.StringIO()
    run(stream, done=55)
    assert [line.split("]")[1][:6].strip() for line in stream.getvalue().splitlines()] == [
        "60 %",
        "70 %",
        "80 %",
        "90 %",
        "100 %",
    ]


@pytest.mark.parametrize("compile_seconds", [0.0, 1000.0])
@pytest.mark.parametrize("done", [0, 40])
def test_time_left_counts_neither_compilation_nor_steps_of_a_former_process(compile_seconds, done):
    stream, clock = io.StringIO(), Clock()
    progress = Progress(1000, label="run", stream=stream, done=done, clock=clock)
    clock.now = compile_seconds
    progress.update(done + 1)
    clock.now += 4.0
    progress.update(done + 9, line=True)
    left = (1000 - done - 9) / 2
    assert f"2 step/s  {duration(left)} left" in stream.getvalue()


def test_first_step_has_no_speed_yet():
    stream = io.StringIO()
    Progress(10, label="run", stream=stream).update(1, line=True, loss=2.0)
    assert stream.getvalue() == "run [##..................]  10 %  loss 2\n"


def test_a_line_can_be_asked_for_and_a_single_step_is_shown():
    stream = io.StringIO()
    progress = Progress(1000, label="run", stream=stream, clock=Clock())
    for step in range(1, 6):
        progress.update(step, line=step == 3)
    assert stream.getvalue().count("\n") == 1
    Progress(1, label="one", stream=stream).update(1)
    assert "one" in stream.getvalue() and "100 %" in stream.getvalue()


def test_terminal_is_redrawn_in_place_ten_times_a_second_at_most():
    stream = Terminal()
    run(stream, total=1000, step_seconds=0.01)
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert 90 <= text.count("\r") <= 102
    assert "100 %" in text.rpartition("\r")[2]


def test_shorter_line_leaves_nothing_of_the_longer_one():
    stream, clock = Terminal(), Clock()
    progress = Progress(10, label="run", stream=stream, clock=clock)
    progress.update(1, loss="a long text")
    clock.now += 1
    progress.update(1, loss="x")
    first, second = stream.getvalue().split("\r")[1:]
    assert len(second) == len(first) and second.endswith("loss x" + 10 * " ")


def test_line_is_cut_to_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    run(stream)
    assert max(len(line) for line in stream.getvalue().split("\r")) <= 40


def test_said_line_stands_alone_and_the_bar_comes_back():
    stream, clock = Terminal(), Clock()
    progress = Progress(10, label="run", stream=stream, clock=clock)
    progress.update(1)
    progress.say("checkpoint 20 is damaged")
    progress.update(2)
    progress.close()
    bar, erased, said = stream.getvalue().split("\r")[1:4]
    assert bar.startswith("run [") and erased.strip() == ""
    assert said == "checkpoint 20 is damaged\n" and stream.getvalue().count("run [") == 2
    plain = io.StringIO()
    Progress(10, label="run", stream=plain).say("hello")
    assert plain.getvalue() == "hello\n"


def test_values_are_fetched_only_when_they_are_drawn():
    class Watched:
        fetched = 0

        def __float__(self):
            Watched.fetched += 1
            return 1.0

    stream = io.StringIO()
    progress = Progress(100, label="run", stream=stream, clock=Clock())
    for step in range(1, 10):
        progress.update(step, loss=Watched())
    assert Watched.fetched == 1, "the first, to know when compilation ended"
    progress.update(10, loss=Watched(), gain=jnp.float32(0.5))
    assert Watched.fetched == 2 and "loss 1 gain 0.5" in stream.getvalue()


def test_nothing_to_do_and_nothing_drawn_are_fine():
    stream = Terminal()
    with Progress(0, label="run", stream=stream):
        pass
    assert stream.getvalue() == ""


def test_after_a_rewind_speed_counts_anew():
    stream, clock = io.StringIO(), Clock()
    with Progress(10, label="run", stream=stream, clock=clock) as progress:
        for step in (1, 2, 3, 4, 5, 6, 7, 8):
            clock.now += 100.0
            progress.update(step)
        progress.rewind(4)
        for step in (5, 6):
            clock.now += 1.0
            progress.update(step)
    last = stream.getvalue().splitlines()[-1]
    assert " 60 %" in last and "1 step/s" in last


def test_a_silent_bar_says_nothing():
    for stream in (io.StringIO(), Terminal()):
        run(stream, silent=True)
        Progress(3, label="run", stream=stream, silent=True).say("a line")
        assert stream.getvalue() == ""


def test_a_stop_is_asked_by_a_signal_and_only_the_main_thread_listens():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    said = Interrupted(signal.SIGTERM, "step 3 of 5")
    assert str(said) == "stopped by SIGTERM and saved at step 3 of 5" and said.exit_code == 143

    seen = []

    def elsewhere():
        with Stop() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
