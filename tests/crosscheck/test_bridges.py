import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from official import gates
from official.bridge import nchw, nhwc
from official.twin import twin

N = 256


def theirs(model, x):
    with torch.no_grad():
        return model(nchw(x)).numpy()


def gradient(model, x, y):
    asked = nchw(x).requires_grad_()
    label = model(asked)[torch.arange(len(y)), torch.from_numpy(np.int64(y))]
    return nhwc(torch.autograd.grad(label.sum(), asked)[0])


@pytest.mark.parametrize("side", ["digits", "rgb"])
@pytest.mark.parametrize("via", ["twin", "bridge"])
def test_logits_and_predictions_are_those_of_the_classifier(side, via, request):
    side = request.getfixturevalue(side)
    x = side.x[:N]
    logits, out = np.asarray(jax.jit(side.f)(x)), theirs(side.models[via], x)
    assert np.abs(out - logits).max() < gates.LOGITS
    assert (out.argmax(-1) == logits.argmax(-1)).all()


@pytest.mark.parametrize("side", ["digits", "rgb"])
@pytest.mark.parametrize("via", ["twin", "bridge"])
def test_input_gradients_are_those_of_the_classifier(side, via, request):
    side = request.getfixturevalue(side)
    x, y = side.x[:N], side.y[:N]

    def label(x):
        return jnp.take_along_axis(side.f(x), y[:, None], -1).sum()

    u = np.asarray(jax.jit(jax.grad(label))(x))
    apart = gates.gradients_apart(gradient(side.models[via], x, y), u)
    assert np.median(apart) < gates.GRADIENTS / 10
    assert (apart > gates.GRADIENTS).mean() <= gates.KINKED


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: setattr(model.bn, "eps", 1e-3),
        lambda model: model.mean.add_(0.01),
        lambda model: model.group2_block1.conv1.weight.copy_(
            model.group2_block1.conv1.weight.flip((2, 3))
        ),
    ],
    ids=["another BatchNorm eps", "another mean", "kernels as convolutions, not correlations"],
)
def test_a_twin_that_is_none_fails_the_gate(rgb, spoil):
    model = twin(rgb.theta, rgb.stats, mean=rgb.mean, std=rgb.std)
    with torch.no_grad():
        spoil(model)
    logits = np.asarray(jax.jit(rgb.f)(rgb.x[:32]))
    assert np.abs(theirs(model, rgb.x[:32]) - logits).max() > gates.LOGITS


def test_padding_at_the_end_alone_fails_the_gate(rgb):
    """What SAME means in JAX at stride 2."""
    model = twin(rgb.theta, rgb.stats, mean=rgb.mean, std=rgb.std)
    conv = model.group2_block1.conv1
    conv.padding = (0, 0)
    model.group2_block1.conv1 = torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), conv)
    logits = np.asarray(jax.jit(rgb.f)(rgb.x[:32]))
    assert np.abs(theirs(model, rgb.x[:32]) - logits).max() > gates.LOGITS


def test_a_tree_with_a_leaf_missing_is_refused(rgb):
    theta = {name: leaf for name, leaf in rgb.theta.items() if name != "bn"}
    with pytest.raises(ValueError, match="bn.bias, bn.weight"):
        twin(theta, rgb.stats, mean=rgb.mean, std=rgb.std)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_the_bridge_takes_any_number_of_images(digits, n):
    bridge = digits.models["bridge"]
    whole = theirs(bridge, digits.x[:16])
    np.testing.assert_allclose(theirs(bridge, digits.x[:n]), whole[:n], atol=1e-5)
    u = gradient(bridge, digits.x[:n], digits.y[:n])
    assert u.shape == digits.x[:n].shape and np.abs(u).max() > 0


def test_the_twin_trains_nothing_and_is_in_eval_mode(digits):
    model = digits.models["twin"]
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
