import jax
import pytest

from l2ljax.inner_loop import repeat


@pytest.mark.parametrize("times", [0, 1, 2, 5])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_body_is_applied_so_many_times(times, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert float(repeat(lambda c: 3 * c + 1, 1.0, times)) == 1.5 * 3.0**times - 0.5


@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_on_the_cpu_nothing_is_left_of_the_loop_before_xla_sees_it(times):
    """XLA removes a loop of one step from the program, but only after it has slowed its body."""
    program = jax.jit(lambda c: repeat(lambda c: 3 * c + 1, c, times)).lower(1.0)
    assert "while" not in program.as_text()
