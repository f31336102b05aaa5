"""`python -m tools.stack up|stop|down|status|logs`; MILKRUN_LOCAL and MILKRUN_PORT say which stack."""

import os
import sys

from tools.stack.cli import main

sys.exit(main(sys.argv[1:], os.environ))
