"""`python -m pspnet` is the `pspnet` command."""

import sys

from pspnet.cli import main

if __name__ == "__main__":  # loader processes import this module too
    sys.exit(main())
