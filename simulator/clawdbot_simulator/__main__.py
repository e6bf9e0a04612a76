"""Entry point of ``python3 -m clawdbot_simulator``."""

import sys

from clawdbot_simulator.cli import main

sys.exit(main())
