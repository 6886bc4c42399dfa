"""Check that files are as they were written and as their formats say, and that those beside each other belong together.

Of a folder all files that Uncouple writes are checked, of a results folder also whether each lies where it belongs, and
whether the files of models are those of their records. It prints a line a fault, with the file and what to do.

examples:
  python -m uncouple verify results
  python -m uncouple verify mask.parquet answers.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.progress import tell

SUMMARY = "check that files and folders are whole, and belong together"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders")


def run(a: Namespace) -> None:
    from uncouple.errors import UncoupleError
    from uncouple.models.folders import model_record
    from uncouple.records.verify import verify_paths

    checked, faults = verify_paths(a.paths, model_record)
    for fault in faults:
        tell(fault)
    if faults:
        raise UncoupleError(f"{len(faults)} faults in {len(checked)} files.")
    tell(f"{len(checked)} files are right.")
