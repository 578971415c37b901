"""The named queries: ``sql/<dialect>/*.sql`` read, checked, and made callable by aiosql.

A query file is parsed here with a lexer, its headers are checked against the contract, and what aiosql would lose in
silence becomes a CatalogError with file and line. aiosql then makes the query functions; its adapter below hands each
call, parameters bound and rows built, to whatever session runs it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import keyword
import re
import types
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import aiosql
import aiosql.queries
from msgspec import Struct

from dal.core.face import NEED, View
from dal.core.rows import (
    KINDS,
    LIST_KINDS,
    Dialect,
    applied_builder,
    encoder,
    model_builder,
    scalar_builder,
)
from dal.core.tokens import SqlSyntax, Statement, Token, statements, tokens
from dal.errors import CatalogError, CorruptDatabase, DalError

Class = Literal["point", "page", "hot", "batch", "report"]
Operator = Literal["", "^", "$", "!"]
Binder: TypeAlias = Callable[[Mapping[str, Any]], tuple[tuple[object, ...], ...]]
DIRECTIVES = ("name", "params", "returns", "class", "plan", "differs")

_HEADER = re.compile(r"(?P<name>[a-z][a-z0-9_]*)\((?P<params>[\w\s,]*)\)(?P<op>.*)")
_DIRECTIVE = re.compile(r"--\s*(?P<word>\w+)\s*:(?!:)(?P<rest>.*)")
_PARAM = re.compile(r"(?P<name>\w+)\s+(?P<kind>\w+(?:\[\])?)(?P<null>\?)?")
_RETURNS = re.compile(r"(?P<applied>Applied\[)?(?P<model>\w+)(?(applied)\])")
_WRITES = re.compile(r"\b(insert|update|delete|merge|replace\s+into)\b", re.IGNORECASE)
# Names that a query function cannot have, or cannot take: it would hide what it is made of.
_QUERY_NAMES = frozenset({*keyword.kwlist, *dir(View), *dir(aiosql.queries.Queries), "driver_adapter", "is_aio"})
_PARAM_NAMES = frozenset({*keyword.kwlist, "self", "conn"})


# --- what a query is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Param:
    """A declared parameter. kind: as in the ``params`` line; nullable: declared with a question mark."""

    name: str
    kind: str
    nullable: bool

    def __str__(self) -> str:
        return f"{self.name} {self.kind}{'?' if self.nullable else ''}"


@dataclass(frozen=True, slots=True)
class Query:
    """One named query of one dialect, with the contract that both dialects share.

    store: the stem of its file. op: '' many rows, '^' one or none, '$' one value or none, '!' a count of rows.
    text: the SQL as written. statements: as the driver takes it, one on PostgreSQL. uses: the index that a
    ``plan: uses …`` line demands. rows: how many it may touch, by ``plan: rows …``. custom: to be planned with its
    values. line: of the header.
    """

    name: str
    store: str
    op: Operator
    params: tuple[Param, ...]
    returns: str
    class_: Class
    doc: str
    text: str
    path: Path
    line: int
    dialect: Dialect
    statements: tuple[Statement, ...]
    writes: bool
    custom: bool = False
    uses: str | None = None
    rows: int | None = None
    differs: str | None = None
    width: int = 0  # columns of a row; 0 for a count
    _binder: Binder = field(default=lambda values: (), repr=False)
    _plain: str = field(default="", repr=False)  # for aiosql
    build: Callable[[Any], Any] = field(default=tuple, repr=False)

    @property
    def contract(self) -> str:
        """What a caller relies on, in one line; the same for both dialects and for an override."""
        return f"{self.name}({', '.join(map(str, self.params))}){self.op} -> {self.returns}"

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that change with the statement but not with its comments or spacing."""
        compact = [" ".join(statement.sql.split()) for statement in self.statements]
        return hashlib.sha256(";".join(compact).encode()).hexdigest()[:8]

    def bind(self, values: Mapping[str, Any]) -> tuple[tuple[object, ...], ...]:
        """Check and encode the arguments, once for each statement. Raises Invalid naming the parameter."""
        try:
            if len(values) != len(self.params):
                raise KeyError
            return self._binder(values)
        except KeyError:
            raise TypeError(f"{self.name} takes {[p.name for p in self.params]}, got {sorted(values)}") from None
        except DalError as error:
            error.query = self.name
            raise

    def where(self) -> str:
        """File and line of the header, as editors and terminals link it."""
        return f"{self.path}:{self.line}"


def _binder(compiled: Sequence[Statement], params: Sequence[Param], dialect: Dialect) -> Binder:
    """A function from arguments by name to each statement's values, every argument checked and encoded once."""
    scope: dict[str, Any] = {
        f"e{at}": encoder(param.kind, nullable=param.nullable, dialect=dialect) for at, param in enumerate(params)
    }
    encoded = ", ".join(f"e{at}(v[{param.name!r}], {param.name!r})" for at, param in enumerate(params))
    place = {param.name: f"a{at}" for at, param in enumerate(params)}
    taken = "".join("(" + "".join(f"{place[name]}, " for name in statement.params) + "), " for statement in compiled)
    source = f"lambda v: (lambda {', '.join(place.values())}: ({taken}))({encoded})"
    bind: Binder = eval(source, scope)  # noqa: S307 - only our numbers and checked identifiers are in it
    return bind


# --- reading a file ---------------------------------------------------------------------------------------------------


def _fault(path: Path, line: int, message: str) -> CatalogError:
    return CatalogError(f"{path}:{line}: {message}")


def _line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _begins_line(text: str, at: int) -> bool:
    return text[text.rfind("\n", 0, at) + 1 : at].strip() == ""


def split_file(path: Path, dialect: Dialect) -> list[tuple[int, list[str], str]]:
    """The queries of a file: line of the header, the header's comment lines, the SQL as written.

    Raises CatalogError for what aiosql drops or misreads: text before the first header, a header inside a string (which
    is none), a misspelt directive, a comment directive below its query's first line of SQL.
    """
    text = _read(path)
    starts: list[int] = []
    directives: list[tuple[int, str]] = []
    try:
        for token in tokens(text, dialect):
            if token.kind == "comment" and token.text.startswith("--") and _begins_line(text, token.at):
                word = _directive(token.text, path, _line_of(text, token.at))
                if word == "name":
                    starts.append(token.at)
                elif word and not starts:
                    raise _fault(path, _line_of(text, token.at), f"'{word}:' stands before the first '-- name:'")
                elif word:
                    directives.append((_line_of(text, token.at), word))
            elif not starts and token.kind != "comment" and token.text.strip():
                raise _fault(path, _line_of(text, token.at), "SQL before the first '-- name:' would never run")
    except SqlSyntax as error:
        raise _fault(path, _line_of(text, error.at), str(error)) from None
    queries = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        lines = text[start:end].splitlines()
        header = 0
        while header < len(lines) and lines[header].lstrip().startswith("--"):
            header += 1
        queries.append((_line_of(text, start), lines[:header], "\n".join(lines[header:]).rstrip()))
    inside = {line + offset for line, header_lines, _ in queries for offset in range(len(header_lines))}
    for line, word in directives:
        if line not in inside:
            raise _fault(
                path, line, f"'{word}:' stands apart from its header, the comment lines right below '-- name:'"
            )
    return queries


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(path, error.object.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from error


def _directive(comment: str, path: Path, line: int) -> str | None:
    """The directive a comment line holds, if any; a near miss of one is an error rather than prose."""
    found = _DIRECTIVE.match(comment)
    if not found:
        return None
    word, rest = found["word"], found["rest"].strip()
    if word in DIRECTIVES:
        return word
    prose = word[0].isupper() and word.lower() not in DIRECTIVES
    near = [] if prose else difflib.get_close_matches(word.lower(), DIRECTIVES, n=1, cutoff=0.7)
    if near or _HEADER.fullmatch(rest):
        raise _fault(path, line, f"'{word}:' is no directive; did you mean '{near[0] if near else 'name'}:'?")
    return None


def _header(lines: Sequence[str], path: Path, line: int) -> tuple[str, dict[str, str], dict[str, int]]:
    """A header's prose, its directives joined over continuation lines, and the line each stands on."""
    prose: list[str] = []
    found: dict[str, str] = {}
    at: dict[str, int] = {}
    open_list = ""
    for offset, text in enumerate(lines):
        body = text.strip().removeprefix("--").strip()
        word = _directive(text.strip(), path, line + offset)
        if word and word in found:
            raise _fault(path, line + offset, f"'{word}:' is given twice")
        if word:
            found[word], at[word] = body.partition(":")[2].strip(), line + offset
            open_list = word if found[word].endswith(",") else ""
        elif open_list:
            found[open_list] += " " + body
            open_list = open_list if body.endswith(",") else ""
        else:
            prose.append(body)
    return "\n".join(prose).strip(), found, at


def _params(directive: str, names: Sequence[str], path: Path, line: int) -> tuple[Param, ...]:
    params = []
    for piece in filter(None, (piece.strip() for piece in directive.split(","))):
        found = _PARAM.fullmatch(piece)
        if not found or found["kind"] not in KINDS | LIST_KINDS:
            known = ", ".join(sorted(KINDS | LIST_KINDS))
            raise _fault(path, line, f"'{piece}' is no parameter: write 'name kind', with a kind of {known}")
        params.append(Param(found["name"], found["kind"], found["null"] is not None))
    declared = [param.name for param in params]
    if declared != list(names):
        raise _fault(path, line, f"the name line has ({', '.join(names)}), the params line ({', '.join(declared)})")
    return tuple(params)


def read_file(
    path: Path, dialect: Dialect, models: Mapping[str, type[Struct]], contracts: Mapping[str, Query] | None = None
) -> list[Query]:
    """The checked queries of one file.

    contracts: the PostgreSQL queries by name, from which the SQLite twins take params, returns and class; None when the
    file is PostgreSQL's own. Raises CatalogError naming file and line.
    """
    return [_read_query(piece, path, dialect, models, contracts) for piece in split_file(path, dialect)]


def _read_query(
    piece: tuple[int, list[str], str],
    path: Path,
    dialect: Dialect,
    models: Mapping[str, type[Struct]],
    contracts: Mapping[str, Query] | None,
) -> Query:
    line, header, text = piece
    prose, found, at = _header(header, path, line)
    twin: Query | None = None
    name, names, op = _signature(found["name"], path, line)
    if dialect == "postgres":
        for needed in ("params", "class"):
            if needed not in found and not (needed == "params" and not names):
                raise _fault(path, line, f"{name} has no '-- {needed}:' line")
        params = _params(found.get("params", ""), names, path, at.get("params", line))
        returns, class_ = found.get("returns", "nothing"), found["class"]
        _check_returns(returns, op, models, path, at.get("returns", line))
        if class_ not in get_args(Class):
            raise _fault(path, at["class"], f"'{class_}' is no class: {', '.join(get_args(Class))}")
    else:
        twin = (contracts or {}).get(name)
        if twin is None:
            raise _fault(path, line, f"{name} has no twin in the other dialect, which holds its contract")
        if (names, op) != ([param.name for param in twin.params], twin.op):
            raise _fault(path, line, f"the name line differs from {twin.where()}: {twin.contract}")
        if twin.store != path.stem:
            raise _fault(path, line, f"{name} stands in {twin.path.name} in the other dialect")
        if repeated := {"params", "returns", "class"} & set(found):
            raise _fault(path, line, f"'{min(repeated)}:' belongs in {twin.where()} alone")
        params, returns, class_ = twin.params, twin.returns, twin.class_
    plan = _plan(found.get("plan", ""), path, at.get("plan", line))
    try:
        cut = tuple(tokens(text, dialect))
        compiled = statements(text, dialect, f"/* dal:{name} */", _PLACEHOLDERS[dialect], cut)
    except SqlSyntax as error:
        offset = line + len(header) + text.count("\n", 0, error.at)
        raise _fault(path, offset, f"{name}: {error}") from None
    _check_statements(name, compiled, names, dialect, path, line)
    return Query(
        name=name,
        store=path.stem,
        op=op,
        params=params,
        returns=returns,
        class_=class_,  # type: ignore[arg-type]  # checked against Class above
        doc=prose,
        text=text.strip(),
        path=path,
        line=line,
        dialect=dialect,
        statements=tuple(compiled),
        writes=_writes(cut),
        custom="custom" in plan,
        uses=plan.get("uses", twin.uses if twin else None),
        rows=int(plan["rows"]) if "rows" in plan else twin.rows if twin else None,
        differs=found.get("differs"),
        _binder=_binder(compiled, params, dialect),
        _plain=_plain(cut),
        width=_width(returns, op, models),
        build=_row_builder(returns, op, models, dialect),
    )


_PLACEHOLDERS: Mapping[Dialect, Callable[[int], str]] = {
    "postgres": lambda number: f"${number}",
    "sqlite": lambda number: f"?{number}",
}


def _signature(directive: str, path: Path, line: int) -> tuple[str, list[str], Operator]:
    found = _HEADER.fullmatch(directive.strip())
    if not found:
        raise _fault(path, line, f"'{directive}' is no header: write name(param, …) in lower case, and an operator")
    op = found["op"].strip()
    if op not in get_args(Operator):
        raise _fault(path, line, f"operator '{op}' is not used here: none, ^, $ or ! (a write that answers: RETURNING)")
    names = [name.strip() for name in found["params"].split(",") if name.strip()]
    if len(set(names)) != len(names):
        raise _fault(path, line, "a parameter is named twice")
    if found["name"] in _QUERY_NAMES:
        raise _fault(path, line, f"no query can be called '{found['name']}'; its functions have that name already")
    if taken := _PARAM_NAMES & set(names):
        raise _fault(path, line, f"no parameter can be called '{min(taken)}'")
    return found["name"], names, op  # type: ignore[return-value]  # checked against Operator above


def _plan(directive: str, path: Path, line: int) -> dict[str, str]:
    plan: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in directive.split(","))):
        found = re.fullmatch(r"(custom)()|(uses) (\w+)|(rows) (\d+)", piece)
        if not found:
            raise _fault(path, line, f"'{piece}' is no plan: custom, or uses and an index, or rows and a number")
        word, value = filter(lambda group: group is not None, found.groups())
        plan[word] = value
    return plan


def _check_returns(returns: str, op: Operator, models: Mapping[str, type[Struct]], path: Path, line: int) -> None:
    shape = _RETURNS.fullmatch(returns)
    model = shape["model"] if shape else returns
    if op == "!":
        if returns != "nothing":
            raise _fault(path, line, "operator '!' answers a count of rows: no 'returns' line")
    elif op == "$":
        if returns not in KINDS:
            raise _fault(path, line, f"operator '$' answers a scalar, not '{returns}': {', '.join(sorted(KINDS))}")
    elif returns == "nothing":
        raise _fault(path, line, "a query that answers rows names its model in a 'returns' line, or ends in '!'")
    elif model not in models:
        near = difflib.get_close_matches(model, models, n=1)
        raise _fault(path, line, f"no model is called '{model}'" + (f"; did you mean {near[0]}?" if near else ""))


def _check_statements(
    name: str, compiled: Sequence[Statement], names: Sequence[str], dialect: Dialect, path: Path, line: int
) -> None:
    if not compiled:
        raise _fault(path, line, f"{name} has no SQL")
    if dialect == "postgres" and len(compiled) > 1:
        raise _fault(path, line, f"{name} is {len(compiled)} statements; on PostgreSQL a query is one")
    used = {param for statement in compiled for param in statement.params}
    if undeclared := used - set(names):
        raise _fault(path, line, f"{name} uses :{min(undeclared)}, which its name line does not declare")
    if unused := set(names) - used:
        raise _fault(path, line, f"{name} declares {min(unused)}, which its SQL does not use")
    for statement in compiled:
        if re.search(r"\bin\s*\(\s*[$?]\d+\s*\)", statement.sql, re.IGNORECASE):
            instead = "= any(:ids)" if dialect == "postgres" else "in (select value from json_each(:ids))"
            raise _fault(path, line, f"{name}: in (:list) matches one value only; write {instead}")


def _plain(cut: Sequence[Token]) -> str:
    """A text with nothing left that aiosql's regular expressions could misread: no literal, comment or slice."""
    return "".join(
        token.text.replace(":", " ") if token.kind == "text" else token.text if token.kind in ("param", "end") else " "
        for token in cut
    )


def _writes(cut: Sequence[Token]) -> bool:
    plain = "".join(token.text if token.kind == "text" else " " for token in cut)
    return _WRITES.search(re.sub(r"\bfor\s+(no\s+key\s+)?update\b", "", plain, flags=re.IGNORECASE)) is not None


def _row_builder(
    returns: str, op: Operator, models: Mapping[str, type[Struct]], dialect: Dialect
) -> Callable[[Any], Any]:
    if op == "!":
        return tuple
    if op == "$":
        return scalar_builder(returns, dialect)
    if returns.startswith("Applied["):
        return applied_builder(models[returns[8:-1]], dialect)
    return model_builder(models[returns], dialect)


def _width(returns: str, op: Operator, models: Mapping[str, type[Struct]]) -> int:
    if op in ("!", "$"):
        return 1 if op == "$" else 0
    applied = returns.startswith("Applied[")
    return len(models[returns[8:-1] if applied else returns].__struct_fields__) + (2 if applied else 0)


# --- the catalog ------------------------------------------------------------------------------------------------------


class Session(Protocol):
    """What runs a bound query: one connection, in or out of a transaction."""

    async def execute(self, query: Query, values: tuple[tuple[object, ...], ...]) -> tuple[Sequence[Any], int]:
        """Run the query's statements in order; the last one's rows, all fetched, and its count of rows affected."""
        ...


class _Adapter:
    """What aiosql calls. Its methods are coroutines while it calls itself blocking: aiosql then passes them through
    untouched, so one set of query functions serves both faces, and a page is a list."""

    is_aio_driver = False

    def __init__(self, queries: Mapping[str, Query]) -> None:
        self._queries = queries

    def process_sql(self, query_name: str, op_type: object, sql: str) -> str:
        """Called once a query at load; what the driver gets was compiled from the file's own text."""
        return ";\n".join(statement.sql for statement in self._queries[query_name].statements)

    async def select(self, view: View, query_name: str, sql: str, parameters: Any, record_class: Any) -> list[Any]:
        query = self._queries[query_name]
        rows = await _rows(view, query, parameters)
        page: list[Any] = _built(query, lambda rows: list(map(query.build, rows)), rows)
        return page

    async def select_one(self, view: View, query_name: str, sql: str, parameters: Any, record_class: Any) -> Any:
        query = self._queries[query_name]
        rows = await _rows(view, query, parameters)
        return _built(query, query.build, rows[0]) if rows else None

    async def select_value(self, view: View, query_name: str, sql: str, parameters: Any) -> Any:
        query = self._queries[query_name]
        rows = await _rows(view, query, parameters)
        return _built(query, query.build, rows[0][0]) if rows else None

    async def insert_update_delete(self, view: View, query_name: str, sql: str, parameters: Any) -> int:
        _, count = await _run(view, self._queries[query_name], parameters)
        return count


async def _rows(view: View, query: Query, parameters: Mapping[str, Any]) -> Sequence[Any]:
    rows, _ = await _run(view, query, parameters)
    if rows and len(rows[0]) != query.width:  # an override that was not checked
        raise CatalogError(f"{query.where()}: {len(rows[0])} columns are selected, {query.returns} has {query.width}")
    return rows


async def _run(view: View, query: Query, parameters: Mapping[str, Any]) -> tuple[Sequence[Any], int]:
    values = query.bind(parameters)
    if not view.session:
        await NEED
    session: Session = view.session
    return await session.execute(query, values)


def _built(query: Query, build: Callable[[Any], Any], given: Any) -> Any:
    try:
        return build(given)
    except DalError as error:
        error.query = query.name
        raise
    except (ValueError, TypeError) as error:
        raise CorruptDatabase("a stored value is not of its column's type", query=query.name) from error


def sql_root() -> Path:
    """The folder of the packaged SQL: ``dal/sql`` when installed, ``sql`` beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "sql"
    return installed if installed.is_dir() else package.parent / "sql"


@dataclass(frozen=True)
class Catalog:
    """The queries of one dialect. view: the class whose instances a store's body receives as ``q``."""

    dialect: Dialect
    queries: Mapping[str, Query]
    view: type[View]

    @classmethod
    def load(
        cls,
        dialect: Dialect,
        models: Mapping[str, type[Struct]],
        overrides: Path | None = None,
        *,
        root: Path | None = None,
        refused: list[CatalogError] | None = None,
    ) -> Catalog:
        """Read every query file of a dialect. Raises CatalogError for the first fault.

        models: every model a ``returns`` line may name. overrides: a directory shaped like ``sql/`` whose files replace
        single queries; each must keep the packaged query's contract. root: the packaged ``sql/`` by default. refused:
        takes the faults of overrides, each of which then leaves the packaged query in its place.
        """
        packaged = _load(dialect, tuple(models.items()), root or sql_root())
        if overrides is None:
            return packaged
        # Read anew each time: a running process may open the database again after an edit.
        faults: list[CatalogError] = []
        replaced = _read_overrides(overrides, dialect, models, packaged.queries, faults)
        if faults and refused is None:
            raise faults[0]
        if refused is not None:
            refused += faults
        return _made({**packaged.queries, **replaced}, dialect)


@functools.lru_cache(maxsize=16)
def _load(dialect: Dialect, models: tuple[tuple[str, type[Struct]], ...], root: Path) -> Catalog:
    known = dict(models)
    contracts = _read_dialect(root / "postgres", "postgres", known, None)
    queries = contracts
    if dialect == "sqlite":
        queries = _read_dialect(root / "sqlite", "sqlite", known, contracts)
        if missing := set(contracts) - set(queries):
            lost = contracts[min(missing)]
            raise _fault(lost.path, lost.line, f"{lost.name} has no twin in sql/sqlite/{lost.path.name}")
    return _made(queries, dialect)


def _made(queries: Mapping[str, Query], dialect: Dialect) -> Catalog:
    return Catalog(dialect, types.MappingProxyType(queries), _make_view(queries))


def _read_dialect(
    folder: Path, dialect: Dialect, models: Mapping[str, type[Struct]], contracts: Mapping[str, Query] | None
) -> dict[str, Query]:
    queries: dict[str, Query] = {}
    files = sorted(path for path in folder.glob("*.sql") if path.name != "schema.sql")
    if not files:
        raise CatalogError(f"{folder} holds no query files; the installation is incomplete")
    for path in files:
        for query in read_file(path, dialect, models, contracts):
            if query.name in queries:
                first = queries[query.name]
                raise _fault(path, query.line, f"{query.name} is defined twice; first at {first.where()}")
            queries[query.name] = query
    return queries


def _read_overrides(
    folder: Path,
    dialect: Dialect,
    models: Mapping[str, type[Struct]],
    packaged: Mapping[str, Query],
    faults: list[CatalogError],
) -> dict[str, Query]:
    """The overrides that fit, by name; what is wrong with the others is added to faults."""
    replaced: dict[str, Query] = {}
    dialects = [folder / name for name in get_args(Dialect) if (folder / name).is_dir()]
    if not dialects or list(folder.glob("*.sql")):
        reason = f"{folder} is no folder of overrides: those stand in its folders postgres and sqlite"
        faults.append(CatalogError(reason))
        return replaced
    for path in sorted((folder / dialect).glob("*.sql")):
        contracts = packaged if dialect == "sqlite" else None
        try:
            pieces = split_file(path, dialect)
        except CatalogError as fault:
            faults.append(fault)
            continue
        for piece in pieces:
            try:
                query = _read_query(piece, path, dialect, models, contracts)
                _check_override(query, packaged, replaced)
            except CatalogError as fault:
                faults.append(fault)
            else:
                replaced[query.name] = query
    return replaced


def _check_override(query: Query, packaged: Mapping[str, Query], replaced: Mapping[str, Query]) -> None:
    own = packaged.get(query.name)
    if own is None:
        raise _fault(query.path, query.line, f"{query.name} overrides nothing: no packaged query has this name")
    if query.contract != own.contract:
        raise _fault(query.path, query.line, f"the override changes the contract: {own.contract}")
    if query.store != own.store:
        raise _fault(query.path, query.line, f"{query.name} stands in {own.path.name}, packaged")
    if query.name in replaced:
        first = replaced[query.name].where()
        raise _fault(query.path, query.line, f"{query.name} is defined twice; first at {first}")


def _make_view(queries: Mapping[str, Query]) -> type[View]:
    """aiosql's own query functions, one file at a time, gathered as methods of one class."""
    # Passed as it is, not registered by a name: two threads may be loading at once.
    adapter: Any = functools.partial(_Adapter, queries)
    methods: dict[str, Any] = {"__slots__": ()}
    for store in sorted({query.store for query in queries.values()}):
        own = [query for query in queries.values() if query.store == store]
        try:
            made = aiosql.from_str("\n".join(map(_for_aiosql, own)), adapter, attribute=None)
        except (aiosql.SQLLoadException, aiosql.SQLParseException) as error:
            raise CatalogError(f"{own[0].path}: {error}") from error
        methods.update({query.name: _method(getattr(made, query.name), query) for query in own})
    return type("Queries", (View,), methods)


def _for_aiosql(query: Query) -> str:
    return f"-- name: {query.name}({', '.join(p.name for p in query.params)}){query.op}\n{query._plain}\n"


def _method(function: Callable[..., Coroutine[Any, Any, Any]], query: Query) -> Callable[..., Any]:
    def call(self: View, **parameters: Any) -> Coroutine[Any, Any, Any]:
        return function(self, **parameters)

    call.__name__ = call.__qualname__ = query.name
    call.__doc__ = f"{query.doc}\n\n{query.contract}"
    return call
