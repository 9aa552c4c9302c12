"""Chunks of the training set: the right rows in the right step, read ahead, never all at once."""

import signal
import time
import tracemalloc

import jax
import numpy as np
import pytest

from l2ljax.commands import train
from l2ljax.data import DATASETS, Stream, epoch_order, from_user, load
from l2ljax.errors import DataError, InputError
from l2ljax.parallel import ONE_DEVICE, Layout
from l2ljax.runs.feed import AHEAD, Feed, ahead, fits
from test_train import assert_same_run, interrupt_at, metrics

N, B, SHAPE = 64, 8, (4, 4, 1)


class Items:
    """Image i has the pixels i."""

    def __init__(self, n=N, shape=SHAPE):
        self.n, self.shape, self.labels = n, shape, np.arange(n) % 2

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return np.full(self.shape, i % 256, np.uint8), self.labels[i]


def draw(seed, epoch, first, n=N, shape=SHAPE, size=6):
    """Batches of six, so that the run's batches of eight are cut out of two."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    for i in range(first, n // size):
        rows = order[i * size : (i + 1) * size]
        yield np.broadcast_to(rows[:, None, None, None], (size, *shape)).astype(np.uint8), rows % 2


def lazy(n=N, shape=SHAPE):
    return from_user((Items(n, shape), Items(4, shape)), "lazy", val_size=0)


def streamed(drawn=draw, n=N, shape=SHAPE, size=6):
    stream = Stream(drawn, batches=n // size, num_classes=2)
    return from_user((stream, Items(4, shape)), "streamed")


def feed(data, layout=ONE_DEVICE, **options):
    return Feed(data, 3, layout=layout, batch_size=B, **options)


def seen(data, epoch, rollbacks, step=None, **options):
    """Of every step the images, known by their first pixel, and the labels, on device 0."""
    steps, fed = [], feed(data, **options)
    at = epoch * fed.steps_per_epoch if step is None else step
    for n, chunk in fed.epoch(epoch, rollbacks, step):
        x, y, order, first = (np.asarray(a) for a in chunk[:4])
        if fed.layout.kind == "pmap":
            x, y, order, first = x[0], y[0], order[0], first[0]
        for k in range(at - int(first), at - int(first) + n):
            steps.append([(int(x[r, 0]), int(y[r])) for r in order[k * B : (k + 1) * B]])
        at += n
    return steps


def test_the_same_rows_reach_the_same_step_wherever_the_images_lie():
    data = lazy()
    arrays = data._replace(x_train=data.x_train[:])
    order = np.asarray(epoch_order(3, 0, 0, N)).reshape(-1, B)
    expected = [[(int(data.x_train[r][0, 0, 0]), int(data.y_train[r])) for r in o] for o in order]
    assert seen(arrays, 0, 0, on_device=True) == expected
    for options in ({"on_device": False}, {"on_device": False, "chunk": 3}):
        assert seen(arrays, 0, 0, **options) == seen(data, 0, 0, **options) == expected
    assert seen(data, 0, 0, on_device=True) == expected
    for kind in ("pmap", "sharding"):
        for on_device in (False, True):
            assert seen(data, 0, 0, layout=Layout(kind), on_device=on_device) == expected
    assert seen(data, 0, 0, 5) == expected[5:]
    assert seen(data, 0, 1) != expected and seen(data, 1, 0) != expected
    assert fits(arrays) and not fits(data), "what is read on demand stays where it is, if not told"


def test_a_stream_is_cut_into_the_runs_batches_from_any_step_on():
    data = streamed()
    assert len(data.x_train) == 60 and data.x_train.shape == (60, *SHAPE)
    whole = seen(data, 0, 0)
    drawn = np.concatenate([x[:, 0, 0, 0] for x, _ in draw(3, 0, 0)])
    assert [pair for step in whole for pair in step] == [(i, i % 2) for i in drawn[:56]]
    for step in range(8):
        for chunk, kind in ((1, "none"), (3, "pmap"), (3, "sharding")):
            layout = Layout(kind)
            assert seen(data, 0, 0, step, chunk=chunk, layout=layout) == whole[step:]
    again, later = seen(data, 0, 1), seen(data, 1, 0, 7)
    assert again == seen(data, 0, 1) != whole and later != whole
    with pytest.raises(InputError, match="streamed: a stream of batches cannot lie on the device"):
        feed(data, on_device=True)


def test_a_batch_that_is_larger_than_the_set_is_refused():
    with pytest.raises(InputError, match="lazy: an epoch has no whole batch of 100 images"):
        Feed(lazy(), 0, layout=ONE_DEVICE, batch_size=100)


def test_a_stream_that_ends_early_ends_the_epoch_with_one_line():
    def short(seed, epoch, first):
        for i, batch in enumerate(draw(seed, epoch, first), first):
            if (epoch, i) == (2, 4):
                return
            yield batch

    data = streamed(short)
    assert len(seen(data, 1, 0)) == 7
    with pytest.raises(DataError, match="epoch 2 ended after 4 batches of 10"):
        seen(data, 2, 0)


def test_chunks_are_read_ahead_but_not_further_than_that():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    out = ahead(items())
    for i in range(4):
        assert next(out) == i
        until = time.monotonic() + 5
        while len(made) < i + 1 + AHEAD and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == i + 1 + AHEAD
    out.close()
    assert list(ahead(iter(range(7)))) == list(range(7))


@pytest.mark.parametrize("kind", ["items", "stream"])
def test_memory_is_bounded_by_the_chunks_that_are_read_ahead(kind):
    """An epoch is fifty times what is read ahead. Arrays of JAX are counted too."""
    shape, n = (64, 64, 3), B * 50 * (AHEAD + 1)
    of_batch = B * 64 * 64 * 3
    if kind == "items":
        data = lazy(n, shape)
    else:
        data = streamed(lambda *a: draw(*a, n=n, shape=shape, size=B), n, shape, B)
    assert data.x_train.nbytes == 50 * (AHEAD + 1) * of_batch
    steps, most, before = 0, 0, sum(a.nbytes for a in jax.live_arrays())
    tracemalloc.start()
    try:
        for _, chunk in feed(data).epoch(0, 0):
            steps += 1
            held = sum(a.nbytes for a in jax.live_arrays()) - before
            most = max(most, held)
            del chunk
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert steps == n // B
    assert most <= (AHEAD + 4) * of_batch and peak <= 3 * (AHEAD + 2) * of_batch


def test_large_images_make_smaller_chunks(monkeypatch):
    monkeypatch.setattr("l2ljax.runs.feed.CHUNK_BYTES", 3 * B * 16)
    assert feed(lazy(), chunk=50).chunk == 2, "the largest divisor of eight steps up to three"
    data = lazy()
    arrays = data._replace(x_train=data.x_train[:])
    assert feed(arrays, chunk=50).chunk == 8


class Digits:
    """The digits as items, or as a stream; `arrays` is the same data in memory."""

    def __init__(self):
        data = load("digits", val_size=0, train_size=1000)
        self.x, self.y, self.test = data.x_train, data.y_train, (data.x_test, data.y_test)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])

    def draw(self, seed, epoch, first):
        order = np.random.default_rng([seed, epoch]).permutation(len(self.x))
        for i in range(first, len(self.x) // 100):
            rows = order[i * 100 : (i + 1) * 100]
            yield self.x[rows], self.y[rows]


def digits(kind):
    def make():
        own = Digits()
        return {"arrays": (own.x, own.y), "items": own, "stream": own.draw}[kind], own.test

    return make


def test_a_run_that_was_stopped_inside_an_epoch_is_the_uninterrupted_one(tmp_path, monkeypatch):
    flags = ["--method=plain", "--model=mlp", "--batch_size=128", "--epochs=2", "--val_size=0"]
    flags += ["--noplots", "--notensorboard", "--final_attacks=clean", "--log_every=1"]
    flags += ["--augment=crop", "--ema_decay=0.9"]
    for kind in ("arrays", "items", "stream"):
        monkeypatch.setitem(DATASETS, kind, digits(kind))

    def run(kind, name):
        return train.main([*flags, f"--dataset={kind}", f"--workdir={tmp_path / name}"])

    for kind in ("items", "stream"):
        assert run(kind, f"{kind}-whole") == 0
        with monkeypatch.context() as patched:
            interrupt_at(patched, 10)  # of 7 steps an epoch
            assert run(kind, f"{kind}-stopped") == 128 + signal.SIGINT
        assert run(kind, f"{kind}-stopped") == 0
        assert_same_run(tmp_path / f"{kind}-whole", tmp_path / f"{kind}-stopped")
    assert run("arrays", "arrays") == 0
    assert metrics(tmp_path / "arrays") == metrics(tmp_path / "items-whole")
