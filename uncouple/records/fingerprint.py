"""What code a step is made of, as one short string: the edit that may change a result changes it, a comment does not.

A step starts at a root, such as `commands.score:run`. Its fingerprint is that of the definitions (functions, classes,
constants) that the root reaches by name, through modules, packages and re-exports, and of the import-time statements
of each module of the package that is loaded on the way: whatever stands at the top of a module and is more than a
definition, an assignment to a name, an import or a docstring, such as `matplotlib.use("Agg")`, `KINDS |= {...}`, an
`if`, or a definition under a decorator that may register it (one that is not in `definitions.PURE`).

Not counted are layout, comments, docstrings, the order of definitions, how names are imported, texts for people (see
`syntax.TEXTS`, ABOUT and TELLERS), `if TYPE_CHECKING:`, what versions of Python say differently, and how
fingerprints are made. Nothing of the package is run. A class counts whole, with all its methods, and an object's
methods count since whoever makes the object names its class. Local names are told from global ones; where that is in
doubt, the global one counts too. Other packages are not looked into: the environment pins them.

What cannot be followed is an error with file and line: a module of the package as a value, or looked into by a name
that is not written out; `globals()`, `eval`, `import *`; an import of what is not there. A verb that picks a module by
name calls `load_part`, and the part is one more root: `fingerprint("commands.figures:run",
"reporting.figures.awareness:draw")`. What is not seen: a docstring read as data, an assignment at the top of a module
that does more than make a value, and subclasses that are found by `__subclasses__()`.
"""

import contextlib
import functools
import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from uncouple.records.definitions import Import, Module, Place
from uncouple.records.syntax import TELLERS, Reading, Use

PACKAGE = Path(__file__).parent.parent
IMPORTERS = {"importlib.import_module", "__import__"}
# How fingerprints are made counts by the fingerprints that it makes, and for no step that records one besides.
ITSELF = Place("records.fingerprint", "fingerprint")
UNFOLLOWED = {*IMPORTERS, "globals", "eval", "exec", "runpy", "builtins"}
# What makes an error of a text that says what is wrong; and where a name leads, with the attributes left over.
Fault = Callable[[str], ValueError]
End = tuple[Place, tuple[str, ...]]


def fingerprint(*roots: str) -> str:
    """Fingerprint of all code of the package that the roots reach.

    Args:
        roots: definitions such as `commands.score:run`, or modules such as `scoring.score` for all that they define;
            names are relative to the package.

    Returns:
        str: 16 hex digits.

    Raises:
        ValueError: a root is not there, or something cannot be followed.
    """
    return own_package().fingerprint(*roots)


@functools.cache
def own_package() -> "Package":
    """The package that this file is part of."""
    return Package(PACKAGE)


def load_part(package: str, name: str) -> ModuleType:
    """Import a module that is picked by its name, such as `load_part("reporting.figures", "awareness")`.

    Which one it is must be among the roots of the step's fingerprint, unless both names are written out.
    """
    return import_module(f"{PACKAGE.name}.{package}.{name}")


class Facts(NamedTuple):
    """What a definition, the import of a module or a use is by itself, and what it reaches."""

    # Of a definition or import the digest of its code, empty where nothing runs; of a use what it stands for.
    text: str
    reached: set[Place]
    # The package of each call of `load_part` that does not say which part, and what makes an error of it.
    parts: list[tuple[str, Fault]]


class Package:
    """A package as its source files stand. Each is read when it is first needed, and once.

    Args:
        folder: of the package.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.modules: dict[str, Module | None] = {}
        self._facts: dict[Place, Facts] = {}
        self._resolved: dict[tuple[str, Use, bool], Facts] = {}

    def fingerprint(self, *roots: str) -> str:
        """See `fingerprint`."""
        return _digest(f"{place} {digest}" for place, digest in sorted(self.reached(*roots).items()) if digest)

    def reached(self, *roots: str) -> dict[str, str]:
        """What a fingerprint is of: dict of `module:definition` to the digest of its code by itself.

        `module:` is a module that is loaded, with the digest of what runs then, empty where that only defines. Two such
        dicts tell which edits made a step stale.
        """
        found: dict[Place, str] = {}
        parts: list[tuple[str, Fault]] = []
        with _garbage_left():
            starts = {place for root in roots for place in self._root(root)}
            todo = list(starts)
            while todo:
                place = todo.pop()
                if place not in found:
                    facts = self._facts[place] = self._facts.get(place) or self._find_facts(place)
                    found[place] = facts.text
                    parts += facts.parts
                    todo += facts.reached - {ITSELF}
        for package, fault in parts:
            if not any(str(place).startswith(f"{package}.") for place in starts):
                raise fault(f"which part of {package} is loaded? Name it among the roots of the fingerprint.")
        return {str(place): digest for place, digest in found.items()}

    def module(self, name: str) -> Module | None:
        """The `Module` of a dotted name relative to the package; None where there is none."""
        if name not in self.modules:
            stem = self.folder.joinpath(*filter(None, name.split(".")))
            paths = [path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()]
            # Python takes a folder without an __init__.py for a package as well.
            path, source = (paths[0], paths[0].read_bytes()) if paths else (stem / "__init__.py", b"")
            self.modules[name] = Module(self.folder.name, name, path, source) if paths or stem.is_dir() else None
        return self.modules[name]

    def _root(self, root: str) -> set[Place]:
        def fault(text: str) -> ValueError:
            return ValueError(f"the root {root}: {text}")

        module, _, name = root.partition(":")
        if not name:
            return self._whole(module, fault)
        places = {place for place, _ in self._follow(Place(module, name), (), fault)}
        if any(place.module is None or not place.name for place in places):
            raise fault("this is no definition of the package.")
        return places

    def _held(self, name: str, fault: Fault) -> Module:
        if module := self.module(name):
            return module
        raise fault(f"{self.folder} has no module {name}.")

    def _whole(self, name: str, fault: Fault) -> set[Place]:
        """All that a module defines, or imports from others of the package to be found in it."""
        module = self._held(name, fault)
        ends = {place for bound in list(module.bindings) for place, _ in self._follow(Place(name, bound), (), fault)}
        return {Place(name), *(place for place in ends if place.module is not None and place.name)}

    def _find_facts(self, place: Place) -> Facts:
        module = self._held(place.module or "", ValueError)
        if place.name:
            readings = [each for each in module.bindings[place.name] if isinstance(each, Reading)]
            reached = {Place(module.name)}
        else:
            readings = module.statements + self._registered(module)
            reached = {Place(module.name.rpartition(".")[0]), *self._loaded(module, module.imports)}
        facts = Facts("", reached, [])
        texts = [self._text(module, reading, place.name, facts) for reading in readings]
        return facts._replace(text=_digest(texts) if texts else "")

    def _text(self, module: Module, reading: Reading, owner: str, facts: Facts) -> str:
        """What a statement of a definition (`owner`) says, each name as what it stands for; adds what it reaches."""
        facts.reached.update(self._loaded(module, reading.imports))
        pieces = reading.pieces.copy()
        told: set[int] = set()
        for use, (line, *positions) in reading.uses.items():
            if not (use.name in module.bindings or use.imports or use.name in UNFOLLOWED):
                continue  # A builtin name.
            key = module.name, use, owner == "load_part"
            if key not in self._resolved:
                self._resolved[key] = self._resolve(module, use, line, owner)
            found = self._resolved[key]
            for position in positions:
                pieces[position] = found.text
            if found.text in TELLERS.values():
                told.update(reading.words.get(use, ()))
            facts.reached.update(found.reached)
            facts.parts.extend(found.parts)
        return " ".join(piece for position, piece in enumerate(pieces) if position not in told)

    def _resolve(self, module: Module, use: Use, line: int, owner: str) -> Facts:
        facts, fault = Facts("", set(), []), functools.partial(module.fault, line)
        ends = self._ends(module, use, fault)
        for end, rest in ends or [(Place(None, use.name), use.attributes)]:
            # The one definition that may load a module by a name that is not written out.
            if owner != "load_part" or end.module is not None:
                facts.reached.update(self._reached_by(use, end, rest, facts.parts, fault))
        names = ["@" + ".".join([str(end), *rest]) for end, rest in ends] or [".".join([use.name, *use.attributes])]
        return facts._replace(text="|".join(sorted(names)))

    def _reached_by(
        self, use: Use, end: Place, rest: tuple[str, ...], parts: list[tuple[str, Fault]], fault: Fault
    ) -> set[Place]:
        """What a use that leads to `end` reaches; a part that is not said by name is added to `parts`."""
        first, second = use.call or (None, None)
        dotted = ".".join([str(end), *rest])
        if end.module is not None:
            if not end.name:
                name = f"{self.folder.name}.{end.module}".strip(".")
                raise fault(f"the module {name} as a value cannot be followed. Name what is used of it.")
            if end.name == "load_part" and not rest:
                if first is None:
                    raise fault("write out the package, `load_part(PACKAGE, name)`, so that it can be followed.")
                if second is None:
                    parts.append((first, fault))
                else:
                    return {end} | self._whole(f"{first}.{second}", fault)
            return {end}
        if UNFOLLOWED.isdisjoint({".".join(dotted.split(".")[:n]) for n in (1, 2)}):
            return set()
        if dotted not in IMPORTERS or first is None or first.startswith("."):
            raise fault(f"{dotted} cannot be followed. Import by statement, or use `load_part`.")
        package, _, name = first.partition(".")
        return self._whole(name, fault) if package == self.folder.name else set()

    def _loaded(self, module: Module, imports: Iterable[Import]) -> set[Place]:
        """The modules of the package that import statements load."""
        loaded = set()
        for each in imports:
            if each.loaded.module is not None:
                ends = self._follow(each.loaded, (), functools.partial(module.fault, each.line))
                places = {each.loaded, *(place for place, _ in ends)}
                loaded |= {Place(place.module) for place in places if place.module is not None}
        return loaded

    def _registered(self, module: Module) -> list[Reading]:
        """Classes of a module that a base of the package is told of when they are made, and so may register."""
        readings = dict.fromkeys(e for bound in module.bindings.values() for e in bound if isinstance(e, Reading))
        return [each for each in readings if each not in module.statements and self._tells(module, each)]

    def _tells(self, module: Module, reading: Reading, below: tuple[Reading, ...] = ()) -> bool:
        """Whether a base of a class, or a base of that, is told of it."""
        for name, attributes in reading.bases:
            for place, _ in self._ends(module, Use(name, attributes), functools.partial(module.fault, 1)):
                holder = self.module(place.module) if place.module is not None else None
                bound = holder.bindings.get(place.name or "", []) if holder else []
                bases = [each for each in bound if isinstance(each, Reading) and each not in below]
                if holder and any(base.is_told or self._tells(holder, base, (*below, base)) for base in bases):
                    return True
        return False

    def _ends(self, module: Module, use: Use, fault: Fault) -> set[End]:
        """Where a use leads: set of (`Place`, attributes left over); empty for a builtin name."""
        own = [Place(module.name, use.name)] if use.name in module.bindings else []
        starts = [each.place for each in use.imports] or own
        return {end for place in starts for end in self._follow(place, use.attributes, fault)}

    def _follow(self, start: Place, attributes: tuple[str, ...], fault: Fault) -> set[End]:
        """Where a place and attributes of it lead, through modules and imports: set of (`Place`, attributes left)."""
        ends, seen, todo = set(), set(), [(start, attributes)]
        while todo:
            item = place, rest = todo.pop()
            if item in seen:
                continue
            seen.add(item)
            if place.module is None:
                ends.add(item)
                continue
            holder = self._held(place.module, fault)
            if not place.name:
                if rest:
                    todo.append((Place(place.module, rest[0]), rest[1:]))
                else:
                    ends.add(item)
                continue
            bound = holder.bindings.get(place.name, ())
            imported = [each.place for each in bound if isinstance(each, Import)]
            if not bound or place in imported:
                # `from . import x` in a package binds the module x that is in it.
                inner = f"{place.module}.{place.name}".strip(".")
                if not self.module(inner):
                    raise fault(f"{holder.path} has no {place.name}.")
                imported.append(Place(inner))
            todo += [(each, rest) for each in imported]
            if any(isinstance(each, Reading) for each in bound):
                ends.add(item)
        if not ends:
            raise fault(f"{start} is imported from where it is imported.")
        return ends


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
    """Syntax trees are many small objects, none of them garbage: to look for some takes longer than to read them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
