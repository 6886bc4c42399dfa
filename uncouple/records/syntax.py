"""What a statement says: its text, where everything that says nothing is left out, and the names that it uses."""

import ast
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from uncouple.records.definitions import Import, Module

# Arguments that are texts for people, where the value is a text or a list of texts, of calls that take such texts.
# Of these alone: a figure's `title` and a sample's `label` are results.
TEXTS = {"help", "description", "title", "examples", "metavar", "epilog"}
TAKE_TEXTS = {"ArgumentParser", "add_parser", "add_subparsers", "add_argument", "add_argument_group", "Field"}
# Attributes of a class that tell people what it is: of these no words count, only expressions and the keys of a dict.
ABOUT = {"about", "inputs"}
# What tells people what happens or is wrong, by name, with what the name must lead to: its words do not count either.
TELLERS = {"say": "@progress:say", "UncoupleError": "@errors:UncoupleError"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
# Fields of the syntax that are blocks of statements, and those that are types.
BLOCKS = {"body", "orelse", "finalbody"}
ANNOTATIONS = {"annotation", "returns"}


class Use(NamedTuple):
    """A use of a name with the attributes after it, such as `files.write`.

    Attributes:
        imports: of what the name is bound to, where that is within the statement.
        call: where it is called, the first two arguments, None for one that is no text or not there.
    """

    name: str
    attributes: tuple[str, ...] = ()
    imports: tuple["Import", ...] = ()
    call: tuple[str | None, str | None] | None = None


class Reading:
    """What a statement says: its text, the names in it that are not its own, and what it imports within.

    The text says what `ast.dump` does, less what says nothing or differs between versions of Python: fields that are
    empty, positions, docstrings, texts for people, and how what is imported is called.

    Args:
        module: the `Module` that it stands in.
        statement: its syntax.

    Attributes:
        pieces: list of str, of the text; a name's own piece is to be replaced by what the name stands for.
        bound: list of (name, `Import` or None) that it binds in the module.
        uses: dict of `Use` to a list: the line of the first, and the position of the piece of each.
        words: dict of `Use`, where it may be one of TELLERS, to the positions of the pieces that are its words.
        imports: list of what `Module.read_import` gives.
        bases: of a class, list of (name, attributes after it).
        is_told: whether it is a class that is told of each class that inherits from it when that is made.
    """

    def __init__(self, module: "Module", statement: ast.stmt) -> None:
        self.pieces: list[str] = []
        self.bound: list[tuple[str, Import | None]] = []
        self.uses: dict[Use, list[int]] = {}
        self.words: dict[Use, list[int]] = {}
        self.imports: list[Import] = []
        # Uses that no scope has bound so far, as (name, position, node, attributes); and each open scope: a dict of the
        # names that it binds to their `Import`s (None for a name declared global), or None for a class, whose names
        # are not seen by its methods.
        self._free: list[tuple[str, int, ast.expr, tuple[str, ...]]] = []
        self._scopes: list[dict[str, list[Import] | None] | None] = []
        self._module, self._in_annotation = module, False
        self._read(statement)
        for use in self._free:
            self._keep(use)
        # What was read is not needed any more.
        del self._free, self._scopes
        bases = [base.value if isinstance(base, ast.Subscript) else base for base in getattr(statement, "bases", [])]
        self.bases = list(map(dotted_name, bases))
        inner = [*statement.body, *statement.keywords] if isinstance(statement, ast.ClassDef) else []
        told = {getattr(each, "name", None) or getattr(each, "arg", None) for each in inner}
        self.is_told = not told.isdisjoint({"__init_subclass__", "metaclass"})

    def _keep(self, use: tuple[str, int, ast.expr, tuple[str, ...]], imports: tuple["Import", ...] = ()) -> None:
        name, position, node, attributes = use
        attributes += getattr(node, "looked_up", ())
        found = Use(name, attributes, imports, getattr(node, "call", None))
        self.uses.setdefault(found, [node.lineno]).append(position)
        if words := getattr(node, "words", None):
            self.words.setdefault(found, []).extend(words)

    def _read(self, value: Any) -> None:
        READERS.get(type(value), Reading._fields)(self, value)

    def _fields(self, node: ast.AST, own: list[str] | None = None) -> None:
        """Read the fields of a node; `own` are the names of a scope that its body has for itself."""
        add = self.pieces.append
        kind: Any = type(node)
        begin, fields = _layout(kind)
        add(begin)
        for field, label in fields:
            value = getattr(node, field, None)
            if value is None or value.__class__ is list and not value:
                continue
            add(label)
            if field in BLOCKS:
                if own is None:
                    self._block(value)
                else:
                    self._scope(own, self._block, value)
            elif field in ANNOTATIONS:
                self._annotation(value)
            else:
                READERS.get(type(value), Reading._fields)(self, value)
        add(")")

    def _list(self, values: Iterable[Any]) -> None:
        self.pieces.append("[")
        for each in values:
            READERS.get(type(each), Reading._fields)(self, each)
        self.pieces.append("]")

    def _plain(self, value: str | int | None) -> None:
        self.pieces.append(ascii(value))

    def _block(self, statements: Any) -> None:
        """Read a block, or the expression of a lambda or conditional.

        In one run of import statements order says nothing, and what is of the package counts by being loaded.
        """
        found = running(statements if isinstance(statements, list) else [statements])
        for are_imports, nodes in itertools.groupby(found, lambda node: isinstance(node, IMPORTS)):
            if are_imports:
                imports = [each for node in nodes if isinstance(node, IMPORTS) for each in self._import(node)]
                outside = [each.loaded.name for each in imports if each.loaded.module is None]
                self.pieces += [f"(Import {name})" for name in sorted(outside)]
            else:
                for node in nodes:
                    self._read(node)

    def _scope(self, names: Iterable[str], read: Callable[[Any], None], value: Any) -> None:
        """Read what has names of its own; uses of other names leave it."""
        start = len(self._free)
        bound: dict[str, list[Import] | None] = {name: [] for name in names}
        self._scopes.append(bound)
        read(value)
        self._scopes.pop()
        used, self._free[start:] = self._free[start:], []
        for use in used:
            imports = bound.get(use[0])
            if imports is None:
                self._free.append(use)
            elif imports:
                self._keep(use, tuple(imports))

    def _bind(self, name: str | None) -> None:
        if name and not self._scopes:
            self.bound.append((name, None))
        elif name and self._scopes[-1] is not None:
            self._scopes[-1].setdefault(name, [])

    def _import(self, node: ast.Import | ast.ImportFrom) -> list["Import"]:
        found = self._module.read_import(node)
        self.imports += found
        for each in found:
            if not self._scopes:
                self.bound.append((each.bound, each))
                continue
            scope = self._scopes[-1]
            imports = None if scope is None else scope.setdefault(each.bound, [])
            if imports is None:
                raise self._module.fault(each.line, "an import in a class, or to a `global` name. Import at the top.")
            imports.append(each)
        return found

    def _global(self, node: ast.Global) -> None:
        self._fields(node)
        if self._scopes and self._scopes[-1] is not None:
            self._scopes[-1].update(dict.fromkeys(node.names))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._bind(getattr(node, "name", None))
        given = node.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        # Decorators, defaults and annotations are looked up outside.
        self._fields(node, own=[each.arg for each in parameters if each])

    def _class(self, node: ast.ClassDef) -> None:
        self._bind(node.name)
        for words in itertools.chain.from_iterable(_words(_about(each)) for each in node.body):
            words.value = ""
        self._scopes.append(None)
        self._fields(node)
        self._scopes.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        # The first iterable is looked up outside.
        self._read(node.generators[0].iter)
        self._scope((), self._fields, node)

    def _named(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar) -> None:
        self._bind(node.name)
        self._fields(node)

    def _name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._bind(node.id)
        self._free.append((node.id, len(self.pieces), node, ()))
        self.pieces.append(node.id)

    def _attribute(self, node: ast.Attribute) -> None:
        name, attributes = dotted_name(node)
        if not name:
            self._read(node.value)
            self.pieces.append(f".{node.attr}")
        else:
            self._free.append((name, len(self.pieces), node, attributes))
            self.pieces.append(".".join((name, *attributes)))

    def _call(self, node: ast.Call) -> None:
        called: Any = node.func
        given: list[Any] = node.args
        name = getattr(called, "id", getattr(called, "attr", None))
        called.call = first, second = (*(_text(each) for each in given[:2]), None, None)[:2]
        if name == "getattr" and second is not None:
            given[0].looked_up = (second,)
        if name in TELLERS:
            called.words = []
            for words in itertools.chain.from_iterable(map(_words, given)):
                words.given_to = called.words
        if name in TAKE_TEXTS:
            kept = [each for each in node.keywords if not (each.arg in TEXTS and _is_text(each.value))]
            node = ast.Call(called, given, kept)
        self._fields(node)

    def _annotation(self, node: ast.AST) -> None:
        """A text in a type is code as well."""
        outer, self._in_annotation = self._in_annotation, True
        self._read(node)
        self._in_annotation = outer

    def _operator(self, node: ast.AST) -> None:
        self.pieces.append(type(node).__name__)

    def _constant(self, node: ast.Constant) -> None:
        self._piece(node, node.value)
        if self._in_annotation and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError, ValueError):
                self._read(ast.increment_lineno(ast.parse(node.value, mode="eval").body, node.lineno - 1))

    def _joined(self, node: ast.JoinedStr) -> None:
        """An f-string; between its values versions of Python cut texts differently, or add empty ones."""
        self.pieces.append("(JoinedStr")
        for are_texts, group in itertools.groupby(node.values, lambda each: isinstance(each, ast.Constant)):
            values = list(group)
            if not are_texts:
                self._list(values)
            elif text := "".join(_text(each) or "" for each in values):
                self._piece(values[0], text)
        self.pieces.append(")")

    def _piece(self, node: ast.AST, value: Any) -> None:
        """The piece of a constant, which may be words that someone is told."""
        if (given_to := getattr(node, "given_to", None)) is not None:
            given_to.append(len(self.pieces))
        self.pieces.append(ascii(value))


READERS: dict[type, Callable[[Reading, Any], None]] = {
    **dict.fromkeys((str, int, type(None)), Reading._plain),
    list: Reading._list,
    ast.Name: Reading._name,
    ast.Attribute: Reading._attribute,
    ast.Constant: Reading._constant,
    ast.Call: Reading._call,
    **dict.fromkeys((*ast.operator.__subclasses__(), *ast.cmpop.__subclasses__()), Reading._operator),
    ast.JoinedStr: Reading._joined,
    ast.Global: Reading._global,
    ast.ClassDef: Reading._class,
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda), Reading._function),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), Reading._comprehension),
    **dict.fromkeys((ast.ExceptHandler, ast.MatchAs, ast.MatchStar), Reading._named),
}


@functools.cache
def _layout(kind: Any) -> tuple[str, list[tuple[str, str]]]:
    """How the text of a kind of node begins, and each field that says something, with what stands before its value."""
    return f"({kind.__name__}", [(field, f"{field}=") for field in kind._fields if field != "ctx"]


def dotted_name(node: ast.AST) -> tuple[str, tuple[str, ...]]:
    """(name, attributes after it) of an expression such as `a.b.c`; the name is empty where it begins with none."""
    attributes: tuple[str, ...] = ()
    while isinstance(node, ast.Attribute):
        attributes = (node.attr, *attributes)
        node = node.value
    return node.id if isinstance(node, ast.Name) else "", attributes


def running(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, without docstrings and what is under `if TYPE_CHECKING:`."""
    for node in statements:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, key, None) for key in ("id", "attr")):
            yield from running(node.orelse)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _words(node: ast.AST | None) -> Iterator[Any]:
    """The constants that a text is put together from, or those of a dict's values; none that an expression looks at."""
    if isinstance(node, ast.JoinedStr):
        yield from (each for each in node.values if isinstance(each, ast.Constant))
    elif isinstance(node, ast.Dict):
        yield from itertools.chain.from_iterable(map(_words, node.values))
    elif isinstance(node, ast.IfExp):
        yield from (*_words(node.body), *_words(node.orelse))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from (*_words(node.left), *_words(node.right))
    elif _text(node) is not None:
        yield node


def _about(node: ast.stmt) -> ast.expr | None:
    """What a statement of a class sets one of ABOUT to; with a type other than ClassVar that would be a field."""
    if isinstance(node, ast.AnnAssign):
        kind = node.annotation.value if isinstance(node.annotation, ast.Subscript) else node.annotation
        return node.value if dotted_name(kind)[0] == "ClassVar" and _is_named(node.target) else None
    return node.value if isinstance(node, ast.Assign) and all(map(_is_named, node.targets)) else None


def _is_named(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id in ABOUT


def _is_text(node: ast.AST) -> bool:
    """Whether an expression can only be a text or a list of texts."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return all(map(_is_text, node.elts))
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or _text(node) is not None
