"""Arrays in, batches out: `load` gives whole uint8 arrays, `take_batch` cuts them inside jit.

data = l2ljax.data.load("cifar10", data_dir="~/data")
order = epoch_order(seed, epoch, rollbacks, len(data.y_train))
x, y = take_batch(rng, x_train, y_train, order, i, batch_size=128, augment=data.augment)
"""

from l2ljax.ball import scale
from l2ljax.data.batches import epoch_order, take_batch
from l2ljax.data.dataset import Dataset
from l2ljax.data.loading import load
from l2ljax.data.table import DATASETS
from l2ljax.errors import DataError

__all__ = ["DATASETS", "DataError", "Dataset", "epoch_order", "load", "scale", "take_batch"]
