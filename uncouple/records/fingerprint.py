"""What code a step is made of, as one short string: the edit that changes a result changes it, a comment does not."""

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def fingerprint(verb):
    """Fingerprint of the code that runs when `python -m uncouple VERB` does.

    Covers the syntax tree of the verb's file in `commands/` and of every module of the package
    that it imports, at any depth. Comments, docstrings, blank lines and layout do not count.

    Args:
        verb: a verb of the command, such as `score`.

    Returns:
        str: 16 hex digits.
    """
    module = f"commands.{verb.replace('-', '_')}"
    if not _path(module).exists():
        raise ValueError(f"there is no verb {verb}")
    return module_fingerprint(module)


def module_fingerprint(module):
    """The same for one module of the package and those that it imports, such as `scoring`."""
    return _digest(ast.parse(_path(module).read_text(encoding="utf-8")))


def _digest(root):
    imports, text = _facts(root)
    texts, todo = {}, imports
    while todo:
        module = todo.pop()
        if module not in texts:
            imports, texts[module] = _module_facts(module)
            todo |= imports
    lines = [text, *(f"{module} {texts[module]}" for module in sorted(texts))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@functools.cache
def _module_facts(module):
    return _facts(ast.parse(_path(module).read_text(encoding="utf-8")))


def _facts(tree):
    """(modules of the package that it imports, the tree as text without docstrings)."""
    return _imports(tree), ast.dump(_without_docstrings(tree))


def _path(module):
    return PACKAGE / f"{module.replace('.', '/')}.py"


def _imports(tree):
    """Names of the package's own modules that a syntax tree imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "uncouple" and module and _path(module).exists():
                found.add(module)
    return found


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = body[0] if body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]
    return tree


def load_part(package, name):
    """Import a module that is picked by its name, such as `load_part("reporting.figures", "awareness")`."""
    return getattr(__import__(f"uncouple.{package}", fromlist=[name]), name)
