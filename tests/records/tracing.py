"""Runs verbs and tells which code of the package ran: an independent truth for what a fingerprint must cover.

    python tracing.py PACKAGE STEPS TRACES

STEPS is a JSON list of (verb, its roots, arguments). Each step is run in a process of its own, forked from one that
has imported the heavy packages, so that each imports the package's modules itself. TRACES gets, by verb, the list of
(file, first line, where from): each code object of the package that was called, and the module and line that was
being imported at that moment, or null.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def trace(package, roots, arguments):
    """Run a step, the function and the flags that its first roots name, and list what code ran."""
    seen, importing = set(), []

    def on_call(frame, event, _):
        code = frame.f_code
        if not code.co_filename.startswith(package):
            return None
        place = (importing[-1].f_code.co_filename, importing[-1].f_lineno) if importing else None
        is_module = code.co_name == "<module>"
        seen.add((code.co_filename, 0 if is_module else code.co_firstlineno, place))
        if is_module:
            importing.append(frame)
        return on_return if is_module else None

    def on_return(frame, event, _):
        if event == "return":
            importing.pop()
        return on_return

    def load(root):
        name, _, function = root.partition(":")
        return getattr(importlib.import_module(f"{Path(package).name}.{name}"), function)

    sys.settrace(on_call)
    run, add_flags = map(load, roots[:2])
    parser = argparse.ArgumentParser()
    add_flags(parser)
    run(parser.parse_args(arguments))
    sys.settrace(None)
    return sorted(seen, key=str)


def import_others(package):
    """Import whatever the package imports from others, and what that would import when a model is loaded."""
    for path in Path(package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = getattr(node, "names", ()) if isinstance(node, (ast.Import, ast.ImportFrom)) else ()
            for name in (alias.name for alias in names):
                module = getattr(node, "module", name)
                if module.partition(".")[0] != Path(package).name:
                    with contextlib.suppress(ImportError):
                        getattr(importlib.import_module(module), name, None)
    for model in ("llama", "bert"):
        importlib.import_module(f"transformers.models.{model}.modeling_{model}")


def main(package, steps, traces):
    sys.path.insert(0, str(Path(package).parent))
    import_others(package)
    found = {}
    for number, (verb, roots, arguments) in enumerate(json.loads(Path(steps).read_text())):
        path = Path(f"{traces}.{number}")
        if not (child := os.fork()):
            status = 1
            try:
                path.write_text(json.dumps(trace(package, roots, arguments)))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{verb} {arguments}: failed")
        found.setdefault(verb, []).extend(json.loads(path.read_text()))
    Path(traces).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
