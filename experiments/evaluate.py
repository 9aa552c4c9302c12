"""Attack a trained classifier.

See `python experiments/evaluate.py --help`, or `l2ljax evaluate --help` where it is installed.
"""

import sys

from l2ljax.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
