"""A module of the package, taken apart: what binds each of its names, and what its import runs."""

import ast
import itertools
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from uncouple.records.syntax import DEFINITIONS, IMPORTS, Reading, dotted_name, running

# Decorators that do nothing besides what they make of a definition; any other may put it into a registry.
PURE = {
    *("property", "staticmethod", "classmethod", "abc.abstractmethod", "contextlib.contextmanager"),
    *("dataclasses.dataclass", "enum.unique", "typing.overload", "typing.final", "typing.runtime_checkable"),
    *("functools.cache", "functools.lru_cache", "functools.cached_property", "functools.wraps"),
    *("functools.total_ordering", "functools.singledispatch", "pydantic.dataclasses.dataclass"),
    *("pydantic.field_validator", "pydantic.model_validator", "pydantic.computed_field", "pydantic.validate_call"),
    *("pydantic.field_serializer", "pydantic.model_serializer"),
    *("torch.no_grad", "torch.enable_grad", "torch.inference_mode", "torch.compile", "triton.jit"),
}


class Place(NamedTuple):
    """A definition of a module of the package; a module of it (no name); or a name outside the package (no module)."""

    module: str | None
    name: str = ""

    def __str__(self) -> str:
        return self.name if self.module is None else f"{self.module}:{self.name}"


class Import(NamedTuple):
    """A name that an import statement binds, what it is bound to, and what is loaded for that."""

    bound: str
    place: Place
    loaded: Place
    line: int


class Module:
    """A module, taken apart.

    Args:
        package: name of the package.
        name: of the module, dotted, relative to the package; empty for the package's own.
        path: of its file.
        source: bytes or str.

    Attributes:
        bindings: dict of each name to what binds it, in order: `Import`, or `Reading` of a statement.
        imports: list of `Import`, of the import statements at its top.
        statements: list of `Reading`, of those at its top that do more than define.
    """

    def __init__(self, package: str, name: str, path: Path, source: bytes | str) -> None:
        self.package, self.name, self.path = package, name, path
        self.bindings: dict[str, list[Import | Reading]] = defaultdict(list)
        self.imports: list[Import] = []
        self.statements: list[Reading] = []
        for node in running(ast.parse(source, str(path)).body):
            if isinstance(node, IMPORTS):
                for found in self.read_import(node):
                    self.imports.append(found)
                    self.bindings[found.bound].append(found)
            else:
                reading = Reading(self, node)
                self.statements += [] if self._only_defines(node) else [reading]
                for name, imported in dict.fromkeys(reading.bound):
                    self.bindings[name].append(imported or reading)

    def fault(self, line: int, text: str) -> ValueError:
        return ValueError(f"{self.path}:{line}: {text}")

    def read_import(self, node: ast.Import | ast.ImportFrom) -> list[Import]:
        found = []
        for alias in node.names:
            if isinstance(node, ast.Import):
                loaded, first = self._place(alias.name), alias.name.partition(".")[0]
                place = loaded if alias.asname else self._place(first)
                found.append(Import(alias.asname or first, place, loaded, node.lineno))
            else:
                place = self._place(self._origin(node), alias.name)
                if alias.name == "*" and place.module is not None:
                    raise self.fault(node.lineno, "`import *` of the package cannot be followed. Name what is needed.")
                found.append(Import(alias.asname or alias.name, place, place, node.lineno))
        return found

    def _origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from` statement imports from."""
        if not node.level:
            return node.module or ""
        parts = [self.package, *filter(None, self.name.split("."))]
        own = len(parts) if self.path.name == "__init__.py" else len(parts) - 1
        return ".".join([*parts[: own + 1 - node.level], *filter(None, [node.module])])

    def _place(self, dotted: str, name: str = "") -> Place:
        package, _, module = dotted.partition(".")
        if package == self.package:
            return Place(module, name)
        return Place(None, f"{dotted}.{name}" if name else dotted)

    def _only_defines(self, node: ast.stmt) -> bool:
        """Whether a statement at the top does nothing but bind names."""
        if isinstance(node, ast.Assign):
            targets = itertools.chain.from_iterable(map(ast.walk, node.targets))
            return not any(isinstance(each, (ast.Attribute, ast.Subscript)) for each in targets)
        if isinstance(node, ast.AnnAssign):
            return isinstance(node.target, ast.Name)
        if isinstance(node, DEFINITIONS):
            inner = running(node.body) if isinstance(node, ast.ClassDef) else ()
            return all(map(self._is_pure, node.decorator_list)) and all(map(self._only_defines, inner))
        return isinstance(node, (ast.Pass, *IMPORTS))

    def _is_pure(self, decorator: ast.expr) -> bool:
        name, attributes = dotted_name(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if attributes[-1:] in (("setter",), ("getter",), ("deleter",)):
            return True
        bound = self.bindings.get(name)
        origins = [str(each.place) if isinstance(each, Import) else "" for each in bound] if bound else [name]
        return all(".".join([origin, *attributes]) in PURE for origin in origins)
