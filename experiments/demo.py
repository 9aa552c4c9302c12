"""Three methods on digits, attacked side by side.

See `python experiments/demo.py --help`, or `l2ljax demo --help` where it is installed.
"""

import sys

from l2ljax.commands.demo import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
