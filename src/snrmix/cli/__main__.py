"""``python -m snrmix.cli``."""

import sys

from snrmix.cli import main

sys.exit(main())
