# pyright: reportMissingImports=false
"""The nets of the training benchmark in plain PyTorch, with the names of the Flax trees.

The WideResNet is `official.twin.Twin`; here are PreActResNet-18 and the wide and two-layer
attackers. Images are NCHW in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from l2ljax.models.attackers import STEM_EPS
from l2ljax.types import Tree
from official.twin import BN_EPS, Twin, fill, logits


class PreActBlock(nn.Module):
    """`models.residual.PreActBlock`: the shortcut takes the raw input."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features, eps=BN_EPS)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        same = stride == 1 and channels == features
        self.shortcut = None if same else nn.Conv2d(channels, features, 1, stride, bias=False)

    def forward(self, x):
        """x [B, c, H, W] -> [B, features, H / stride, W / stride]."""
        h = self.conv1(torch.relu(self.bn1(x)))
        h = self.conv2(torch.relu(self.bn2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class PreActResNet18(nn.Module):
    """`models.residual.PreActResNet18`, or without `last_bn` GradAlign's form of it."""

    def __init__(
        self,
        channels: int,
        stem: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        last_bn: bool,
    ):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.order, width = [], stem
        for group, stride in enumerate((1, 2, 2, 2)):
            for block in range(2):
                name, features = f"group{group + 1}_block{block + 1}", stem * 2**group
                self.add_module(name, PreActBlock(width, features, 1 if block else stride))
                self.order.append(name)
                width = features
        self.bn = nn.BatchNorm2d(width, eps=BN_EPS) if last_bn else None
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """x [B, c, H, W] in [0, 1] -> logits [B, classes]."""
        x = self.stem((x - self.mean) / self.std)
        for name in self.order:
            x = self.get_submodule(name)(x)
        return logits(self.head, x if self.bn is None else torch.relu(self.bn(x)))


class GeneratorBlock(nn.Module):
    """`models.attackers.GeneratorBlock` with PReLU."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(channels, eps=BN_EPS, affine=False), nn.PReLU()
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.bn2, self.act2 = nn.BatchNorm2d(features, eps=BN_EPS, affine=False), nn.PReLU()
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = None if channels == features else nn.Conv2d(channels, features, 1)

    def forward(self, x):
        """x [B, c, H, W] -> [B, features, H, W]."""
        h = self.conv2(self.act2(self.bn2(self.conv1(self.act1(self.bn1(x))))))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Wide(nn.Module):
    """`models.attackers.Wide` and `TwoLayer`."""

    def __init__(self, seen: int, stem: int, blocks: Sequence[int], channels: int):
        super().__init__()
        self.conv = nn.Conv2d(seen, stem, 3, padding=1, bias=False)
        self.bn, width = nn.BatchNorm2d(stem, eps=STEM_EPS), stem
        for i, features in enumerate(blocks):
            self.add_module(f"block{i + 1}", GeneratorBlock(width, features))
            width = features
        self.count = len(blocks)
        self.bn_blocks = nn.BatchNorm2d(width, eps=BN_EPS, affine=False)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, a):
        """a [B, c_in, H, W] -> [B, channels, H, W] in [-1, 1]."""
        h = torch.relu(self.bn(self.conv(a)))
        for i in range(self.count):
            h = self.get_submodule(f"block{i + 1}")(h)
        return torch.tanh(self.conv_out(self.bn_blocks(h)).float())


def classifier(model: str, theta: Tree, stats: Tree, mean: Any, std: Any) -> nn.Module:
    """The torch writing of that classifier with these weights, in training mode."""
    channels, stem = theta["stem"]["kernel"].shape[2:]
    classes = theta["head"]["kernel"].shape[-1]
    if model.startswith("preact_resnet18"):
        net: nn.Module = PreActResNet18(channels, stem, classes, mean, std, "bn" in theta)
    else:
        depth = int(model.split("-")[1])
        per = (depth - 4) // 6
        names = [f"group{g + 1}_block{b + 1}" for g in range(3) for b in range(per)]
        blocks = {name: theta[name]["conv2"]["kernel"].shape[-1] for name in names}
        net = Twin(channels, stem, blocks, classes, mean, std)
    fill(net, theta, stats)
    return net.train()


def attacker(phi: Tree, stats: Tree) -> nn.Module:
    """The torch writing of a wide or two-layer attacker with these weights, in training mode."""
    seen, stem = phi["conv"]["kernel"].shape[2:]
    blocks = [name for name in phi if name.startswith("block")]
    widths = [phi[f"block{i + 1}"]["conv2"]["kernel"].shape[-1] for i in range(len(blocks))]
    net = Wide(seen, stem, widths, phi["conv_out"]["kernel"].shape[-1])
    fill(net, phi, stats)
    return net.train()
