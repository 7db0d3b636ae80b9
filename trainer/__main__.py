"""`python -m trainer`."""

import signal
import sys

from trainer.allocator import keep_freed_memory
from trainer.cli import main

keep_freed_memory()
signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends the process as Ctrl-C does
sys.exit(main())
