"""Images of any size of set in, batches out: `load` gives three splits, `take_batch` cuts in jit.

    data = l2ljax.data.load("cifar10", data_dir="~/data")
    order = epoch_order(seed, epoch, rollbacks, len(data.y_train))
    x, y = take_batch(rng, x_train, y_train, order, i, batch_size=128, augment=data.augment)

`from_user` makes a Dataset of one's own arrays or sources. Training images that do not fit into
memory are `Images`, decoded on demand, or a `Stream` of batches that a function draws.
"""

from l2ljax.ball import scale
from l2ljax.data.batches import AUGMENTS, epoch_order, take_batch
from l2ljax.data.dataset import Dataset
from l2ljax.data.loading import SETTINGS, from_user, load, outline
from l2ljax.data.sources import Images, as_source
from l2ljax.data.stream import Stream
from l2ljax.data.table import DATASETS
from l2ljax.errors import DataError

__all__ = [
    "AUGMENTS",
    "DATASETS",
    "DataError",
    "Dataset",
    "Images",
    "SETTINGS",
    "Stream",
    "as_source",
    "epoch_order",
    "from_user",
    "load",
    "outline",
    "scale",
    "take_batch",
]
