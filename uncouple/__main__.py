import signal
import sys

from uncouple.commands import main

# Ended by Snakemake, SLURM or a person, a step still clears away what it had half written.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(main())
