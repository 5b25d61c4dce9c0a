"""The command line: one file per verb, no decisions of its own."""

import time

STARTED = time.monotonic()
"""When this command began: a budget in seconds covers the whole of it."""
