"""Black-box robustness.

See `python experiments/transfer.py --help`, or `l2ljax transfer --help` where it is installed.
"""

import sys

from l2ljax.commands.transfer import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
