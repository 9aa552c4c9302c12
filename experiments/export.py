"""Write the networks of a run as plain arrays.

See `python experiments/export.py --help`, or `l2ljax export --help` where it is installed.
"""

import sys

from l2ljax.commands.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
