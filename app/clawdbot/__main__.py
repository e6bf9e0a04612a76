"""``python -m clawdbot``."""

import sys

from clawdbot.cli import main

sys.exit(main())
