"""Fingerprints under other versions of Python, each a real one that runs in node."""

import json
import shutil
import subprocess

import pytest
from conftest import ROOT

from uncouple.records.fingerprint import fingerprint

pytestmark = pytest.mark.slow
# Of the package `pyodide` of npm, by the version of Python that it is.
VERSIONS = {"3.13.2": "0.29.0", "3.14.2": "314.0.7"}
PROGRAM = """
const { loadPyodide } = await import(process.argv[2]);
const python = await loadPyodide();
python.FS.mkdir("/clone");
python.FS.mount(python.FS.filesystems.NODEFS, { root: process.argv[3] }, "/clone");
python.globals.set("roots", process.argv[4]);
console.log(python.runPython(`
import json, sys
sys.path.insert(0, "/clone")
from uncouple.records.fingerprint import fingerprint
json.dumps([sys.version.split()[0], {root: fingerprint(*root.split()) for root in json.loads(roots)}])
`));
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_every_step_has_the_same_fingerprint_under_another_python(tmp_path, version):
    """So that a driver and its jobs may have different ones."""
    if not shutil.which("npm"):
        pytest.skip("npm is not here, which other versions of Python come from")
    subprocess.run(["npm", "pack", "--silent", f"pyodide@{VERSIONS[version]}"], cwd=tmp_path, check=True)
    (archive,) = tmp_path.glob("*.tgz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (tmp_path / "run.mjs").write_text(PROGRAM)
    roots = [f"commands.{path.stem}" for path in sorted((ROOT / "uncouple/commands").glob("[a-z]*.py"))]
    # What picks figures and tables by name has all of them among its roots.
    parts = {f"commands.{kind}": f"reporting.{kind}" for kind in ("figures", "tables")}
    wanted = [root if root not in parts else f"{root} {_all_of(parts[root])}" for root in roots]
    command = ["node", "run.mjs", str(tmp_path / "package/pyodide.mjs"), str(ROOT), json.dumps(wanted)]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    python, found = json.loads(told)
    assert python == version
    assert found == {root: fingerprint(*root.split()) for root in wanted}
    assert len(found) > 20


def _all_of(package):
    folder = ROOT / "uncouple" / package.replace(".", "/")
    return " ".join(f"{package}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py")))
