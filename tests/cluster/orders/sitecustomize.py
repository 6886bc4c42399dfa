"""What a test does to one job: Python runs this file when it starts, wherever this folder is in PYTHONPATH.

$UNCOUPLE_ORDERS is a folder of files: the name is what to do, the text is words that the command has, all of them. The
first process whose command it fits takes an order: hides it, and keeps to it until it is gone. So the same job runs
untouched when it comes again.
"""

import os
import sys
import time
from pathlib import Path


def obey(orders):
    for order in sorted(orders.glob("[!.]*")):
        words = order.read_text().split()
        if not all(any(word in part for part in sys.orig_argv) for word in words):
            continue
        taken = orders / f".{order.name}"
        try:
            order.rename(taken)
        except FileNotFoundError:
            # Another process was faster.
            continue
        if order.name.startswith("hold"):
            # Every page is touched, so that all of it counts.
            held = b"x" * 2_500_000_000
            assert held
        while taken.exists():
            time.sleep(0.1)


if "uncouple" in sys.orig_argv and os.environ.get("UNCOUPLE_ORDERS"):
    obey(Path(os.environ["UNCOUPLE_ORDERS"]))
