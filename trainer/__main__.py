"""`python -m trainer`."""

import signal
import sys

from trainer.cli import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end politely, it ends as by Ctrl-C
sys.exit(main())
