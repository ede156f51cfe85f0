"""`python -m harvest_brain` is `harvest-brain`."""

import sys

from harvest_brain.ops.cli import main

sys.exit(main())
