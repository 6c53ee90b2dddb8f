"""`python -m pspnet` is the `pspnet` command."""

import sys

from pspnet.cli import main

sys.exit(main())
