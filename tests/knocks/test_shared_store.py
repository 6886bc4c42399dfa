"""Many processes write, read and prune one store at once: no entry is lost, none is another's, no partial is left."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from uncouple.records.formats import METRICS
from uncouple.records.store import Store, list_entries, verify_store

# How long; `UNCOUPLE_KNOCKS_SECONDS=60 pytest tests/knocks/test_shared_store.py -m slow` tries harder.
SECONDS = float(os.environ.get("UNCOUPLE_KNOCKS_SECONDS", "10"))
WRITERS, KEYS, OLD = 8, 12, 1000
SCRIPT = f"""
import json, os, random, sys, time
import pyarrow as pa
from uncouple.records.formats import METRICS
from uncouple.records.store import Store, list_entries, prune_store
folder, role = sys.argv[1:]
store, rng, done, mine = Store(folder), random.Random(role), 0, set()

def put(n):
    rows = [{{"model": "m", "dimension": "d", "metric": str(i), "value": n}} for i in range(1 + n % 7 * 50)]
    table = pa.Table.from_pylist(rows, METRICS.schema({{}}))
    store.put_table(METRICS, {{"n": n}}, table, {{"confidence": None, "n": n, "code": "c"}})

def check(n):
    found = store.get(METRICS, {{"n": n}})
    assert found is None or set(found[0]["value"].to_pylist()) == {{n}} == {{found[1]["n"]}}, n
    return found is not None

end = time.monotonic() + {SECONDS}
while time.monotonic() < end:
    n = rng.randrange({KEYS})
    if role.startswith("writer"):
        put(n)
        mine.add(n)
        # What others may prune, for it is old.
        put(n + {OLD})
        path = store._place(METRICS, {{"n": n + {OLD}}})
        try:
            os.utime(path, (0, 0))
        except FileNotFoundError:
            pass
        assert all(map(check, mine)), "an entry is lost"
    elif role.startswith("reader"):
        check(n)
        check(n + {OLD})
        list_entries(folder) if os.path.isdir(folder) else None
    elif os.path.isdir(folder):
        prune_store(folder, days=1, size=10**9)
        time.sleep(0.001)
    done += 1
print(json.dumps([done, sorted(mine)]))
"""


@pytest.mark.slow
def test_a_store_that_many_share(tmp_path):
    roles = [f"writer {i}" for i in range(WRITERS)] + ["reader 1", "reader 2", "pruner 1", "pruner 2"]
    command = [sys.executable, "-c", SCRIPT, tmp_path / "store"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, role], cwd=ROOT, **pipes) for role in roles]
    ended = {role: (*process.communicate(), process.returncode) for role, process in zip(roles, started, strict=True)}
    put = set()
    for role, (out, told, status) in ended.items():
        assert (status, "broken" in told) == (0, False), f"{role}: {told}"
        done, mine = json.loads(out)
        print(f"{role}: {done} rounds")
        put |= set(mine)
    for n in put:
        table, record = Store(tmp_path / "store").get(METRICS, {"n": n})
        assert set(table["value"].to_pylist()) == {n} == {record["n"]}
    assert verify_store(tmp_path / "store") == len(list_entries(tmp_path / "store"))
    assert not list((tmp_path / "store").rglob(".*"))


def test_two_entries_that_changed_places_are_not_taken(tmp_path):
    """Each is whole and sealed, and says under which name it was put."""
    import pyarrow as pa

    store = Store(tmp_path / "store")
    for n in (1, 2):
        row = {"model": "m", "dimension": "d", "metric": "a", "value": n}
        store.put_table(METRICS, {"n": n}, pa.Table.from_pylist([row], METRICS.schema({})), {"confidence": None})
    one, other = (entry.path for entry in list_entries(tmp_path / "store"))
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    with pytest.raises(Exception, match="2 of 2 entries are broken"):
        verify_store(tmp_path / "store")
    assert [store.get(METRICS, {"n": n}) for n in (1, 2)] == [None, None]
    assert list_entries(tmp_path / "store") == []
