"""Ask whether any pinned package has a known vulnerability. `make audit` and `make check` run it.

pip-audit says "No known vulnerabilities found" of packages too that it could learn nothing of. Here those are told.
Exit status: 0 where all were looked up and none has one, 1 where one has, 2 where not all could be looked up.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ENVS = Path(__file__).parent
# Together they pin all that is installed but what torch brings.
PINNED = ("requirements.txt", "constraints.txt")
COMMAND = [sys.executable, "-m", "pip_audit", "--format", "json", "--no-deps", "--disable-pip"]
COMMAND += ["--progress-spinner", "off", *(part for name in PINNED for part in ("--requirement", str(ENVS / name)))]


def tell(found: list[dict[str, Any]], fault: str) -> tuple[int, list[str]]:
    """(exit status, lines) of what pip-audit found.

    Args:
        found: its `dependencies`.
        fault: what it said besides, where it found nothing.
    """
    vulnerable = [one for one in found if one.get("vulns")]
    unknown = [one for one in found if "vulns" not in one]
    lines = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no version yet'}"
        for one in vulnerable
        for vuln in one["vulns"]
    ]
    if unknown or not found:
        why = unknown[0].get("skip_reason", "") if unknown else fault
        lines.append(
            f"NOT AUDITED: {len(unknown) or 'all'} packages, of which nothing could be learnt ({why.strip()})."
        )
    if not lines:
        lines.append(f"{len(found)} packages are pinned, and none has a known vulnerability.")
    return 1 if vulnerable else 2 if unknown or not found else 0, lines


def main() -> int:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        found = []
    status, lines = tell(found, done.stderr.strip().rpartition("\n")[2])
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
