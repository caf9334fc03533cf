"""What all tests need."""

from __future__ import annotations

import signal

# A job that a shell starts in the background inherits an ignored Ctrl-C; the tests of Ctrl-C need a real one, in children too.
signal.signal(signal.SIGINT, signal.default_int_handler)
