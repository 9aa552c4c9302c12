"""Imitate an expert.

See `python experiments/gail.py --help`, or `l2ljax gail --help` where it is installed.
"""

import sys

from l2ljax.commands.gail import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
