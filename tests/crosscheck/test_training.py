"""The training steps of benchmarks/vs_torch.py: both writings have the same gradients."""

import pytest

pytest.importorskip("torch")

import vs_torch
from l2ljax.settings import defaults


@pytest.mark.parametrize(
    "model, attacker, method",
    [
        ("wrn-10-1", "wide", "plain"),
        ("wrn-10-1", "wide", "pgm"),
        ("wrn-10-1", "wide", "grad_l2l"),
        ("wrn-10-1", "two_layer", "two_step_l2l"),
        ("preact_resnet18", "two_layer", "grad_l2l"),
        ("preact_resnet18_gradalign", "two_layer", "plain"),
    ],
)
def test_both_writings_have_the_same_gradients(model, attacker, method):
    options = defaults(vs_torch.FLAGS) | {"size": 16, "attacker": attacker, "attacker_width": 0.125}
    config = vs_torch.configuration_of(options | {"batch_size": 8}, model, method)
    found = vs_torch.differences(config, options, wide=True)
    assert found.keys() == ({"theta", "phi"} if "l2l" in method else {"theta"})
    assert max(found.values()) < options["bound"]
