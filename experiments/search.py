"""Random search over a recipe.

See `python experiments/search.py --help`, or `l2ljax search --help` where it is installed.
"""

import sys

from l2ljax.commands.search import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
