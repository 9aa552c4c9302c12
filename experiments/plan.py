"""Plan a run for machines that are not here: does it fit, how long, at what cost?

See `python experiments/plan.py --help`, or `l2ljax plan --help` where it is installed.
"""

import sys

from l2ljax.commands.plan import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
