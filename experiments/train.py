"""Train a robust classifier by learning to attack.

See `python experiments/train.py --help`, or `l2ljax train --help` where it is installed.
"""

import sys

from l2ljax.commands.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
