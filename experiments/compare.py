"""Methods side by side over seeds.

See `python experiments/compare.py --help`, or `l2ljax compare --help` where it is installed.
"""

import sys

from l2ljax.commands.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
