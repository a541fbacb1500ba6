"""`python -m kerasrec.cli`."""

import sys

from kerasrec.cli.entry import main

sys.exit(main())
