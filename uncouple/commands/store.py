"""List what a store holds, read all of it to find what is broken, or remove what was not used for long.

examples:
  python -m uncouple store list --store results/store
  python -m uncouple store prune --store results/store --days 30 --size 20GB
"""

from argparse import ArgumentParser, Namespace

from uncouple.options import Size, read_as
from uncouple.progress import tell

SUMMARY = "list, check or prune the store of results"


def add_flags(parser: ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser("list", help="each entry, and the sum of their sizes")
    verify = what.add_parser("verify", help="read each entry whole")
    prune = what.add_parser("prune", help="remove entries, those first that were not used for longest")
    prune.add_argument("--days", type=float, help="that were not used for so many days")
    prune.add_argument("--size", type=read_as(Size), help="until the others take no more room than this, such as 20GB")
    for one in (listing, verify, prune):
        one.add_argument("--store", required=True, help="the folder")


def run(a: Namespace) -> None:
    from uncouple.records import store

    if a.what == "list":
        tell("\n".join(store.describe_store(a.store)))
    elif a.what == "verify":
        tell(f"{store.verify_store(a.store)} entries, each as it was written")
    else:
        count, freed = store.prune_store(a.store, a.days, a.size)
        tell(f"{count} entries removed, {freed / 1e6:,.1f} MB")
