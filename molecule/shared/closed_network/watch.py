"""Looks for the password in the command lines of all processes, ten times a second; a line for each find."""

import time
from pathlib import Path

# Its letters and digits, which are the same in a URL.
NEEDLE = Path(__file__).with_name("password").read_bytes()[:24]

while True:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if NEEDLE in (line := file.read_bytes()):
                print(line.replace(NEEDLE, b"***"))
        except OSError:
            pass  # the process has ended
    time.sleep(0.1)
