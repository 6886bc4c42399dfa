"""What a run was planned with, told to its jobs: one that starts later runs the same, or says that it would not.

Snakemake keeps of each file with what code it was planned. Were that edited between the plan and the job, and the edit
taken back later, the file of the edited code would count as one of the first.
"""

import base64
import json
import os
import zlib
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.records.files import digest
from uncouple.records.fingerprint import PACKAGE, fingerprint

# Holds a plan, packed: a system takes no more than 128 kB there.
VARIABLE = "UNCOUPLE_PLAN"


def tell_plan(**plan: Any) -> None:
    """Tell a plan to all processes that this one starts.

    Args:
        plan: `code`, a dict of roots, joined by blanks, to their fingerprint; `stamp`, the `stamp` of before these were
            taken; and what else jobs must know, for JSON.
    """
    text = json.dumps(plan)
    os.environ[VARIABLE] = base64.b64encode(zlib.compress(text.encode())).decode()


def told_plan() -> dict[str, Any]:
    """The plan that this process was told; empty where it was told none."""
    text = os.environ.get(VARIABLE)
    return json.loads(zlib.decompress(base64.b64decode(text))) if text else {}


def check_plan(root: str) -> None:
    """That the code of a step is that of the plan, if there is one.

    Args:
        root: where the step begins, such as `commands.score:run`; the first of the plan's roots.

    Raises:
        UncoupleError: it is other code.
    """
    plan = told_plan()
    if not plan or plan["stamp"] == stamp():
        return
    for roots, planned in plan["code"].items():
        first, *parts = roots.split()
        if first == root and fingerprint(first, *parts) != planned:
            raise UncoupleError(
                f"{PACKAGE}: the code of this step is not that which the run was planned with: it was edited since, or "
                "is another clone's. Nothing was made. Start the run again."
            )


def stamp() -> str:
    """Of sizes and dates of the package's files. While it is the same no code is read: that takes most of a second."""
    found = [(path, path.stat()) for path in sorted(PACKAGE.rglob("*.py"))]
    told = [f"{path.relative_to(PACKAGE)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found]
    return digest(*told)
