"""A chat template as a program of Jinja, run in a sandbox with a budget (extra ``hf``).

The program is rewritten before it is compiled: loops, macros, lists and joined texts pay for what they make (see
`llada.data.chat.template_budget`), and special tokens that it spells can be given stand-ins.
"""

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from llada.data.chat.template_budget import Budget, OverLimitError
from llada.data.chat.template_literals import Literals

LONGEST_SOURCE = 100_000
_BUDGET: ContextVar[Budget] = ContextVar("budget")
_STEP, _MADE, _PRINTED = "_step", "_made", "_printed"


def run_program(source: str, inputs: Mapping[str, Any], now: datetime, literals: Literals | None = None) -> str:
    """What a template writes.

    Args:
        source: the program.
        inputs: what it sees, by name.
        now: the date that it sees.
        literals: stand-ins for what the program itself spells; None to leave all as it is.

    Raises:
        ValueError: if it is malformed, fails, refuses the messages, or takes too long or makes too much.
    """
    program = _compile(source, literals)
    token = _BUDGET.set(Budget.of(inputs, now))
    try:
        pieces: list[str] = list(program.generate(**inputs))
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it calls itself too deeply"
        raise ValueError(f"the chat template failed: {reason}; it begins with {_excerpt(source)}") from error
    finally:
        _BUDGET.reset(token)
    return "".join(pieces)


@lru_cache(maxsize=16)
def names_in(source: str) -> frozenset[str]:
    """Every variable, attribute and text of a program: what it doesn't name it can't look for.

    Raises:
        ValueError: if it is malformed.
    """
    nodes, tree = import_jinja().nodes, _parse(source)
    try:
        found = {node.attr for node in tree.find_all(nodes.Getattr)} | {node.name for node in tree.find_all(nodes.Name)}
        found |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    except RecursionError as error:
        raise ValueError(f"the chat template is malformed: {error}; it begins with {_excerpt(source)}") from error
    return frozenset(found)


def import_jinja() -> Any:
    """The package jinja2.

    Raises:
        ImportError: if it isn't there.
    """
    try:
        import jinja2.ext
        import jinja2.nodes
        import jinja2.sandbox
        import jinja2.visitor
    except ImportError as error:
        raise ImportError(
            "the chat template of a checkpoint needs the package jinja2: pip install llada[hf]"
        ) from error
    return jinja2


def _parse(source: str) -> Any:
    if len(source) > LONGEST_SOURCE:
        raise ValueError(f"the chat template has {len(source):,} characters, more than {LONGEST_SOURCE:,}")
    jinja2 = import_jinja()
    try:
        return _environment().parse(source)
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is malformed in line {error.lineno}: {error.message}") from error
    except Exception as error:  # nested too deeply
        raise ValueError(f"the chat template is malformed: {error}; it begins with {_excerpt(source)}") from error


@lru_cache(maxsize=16)
def _compile(source: str, literals: Literals | None) -> Any:
    nodes, tree = import_jinja().nodes, _parse(source)
    try:
        if literals is not None:
            literals.replace(tree, nodes)
        _charge(tree, nodes)
        return _environment().from_string(tree)
    except Exception as error:  # nested too deeply for Python
        raise ValueError(f"the chat template is malformed: {error}; it begins with {_excerpt(source)}") from error


def _charge(tree: Any, nodes: Any) -> None:
    """Make loops, macros, lists and joined texts pay."""
    for node in [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]:
        plain = sum(len(data.data) for child in node.body for data in _data_in(child, nodes))
        node.body.insert(
            0, nodes.Output([_filtered(nodes, _STEP, nodes.Const(plain), node.lineno)], lineno=node.lineno)
        )

    def replaced(node: Any) -> Any:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [replaced(x) if isinstance(x, nodes.Node) else x for x in value])
            elif isinstance(value, nodes.Node):
                setattr(node, name, replaced(value))
        if isinstance(node, nodes.Concat):
            node.nodes = [_filtered(nodes, _PRINTED, child, node.lineno) for child in node.nodes]
            return node
        made = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
        return _filtered(nodes, _MADE, node, node.lineno) if made else node

    replaced(tree)


def _data_in(node: Any, nodes: Any) -> list[Any]:
    own = [node] if isinstance(node, nodes.TemplateData) else []
    return own + list(node.find_all(nodes.TemplateData))


def _filtered(nodes: Any, name: str, node: Any, line: int) -> Any:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """The sandbox, with what Hugging Face's templates rely on."""
    jinja2 = import_jinja()
    sandbox = _sandbox(jinja2)(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # it would compute constants before there is a budget
        finalize=jinja2.pass_context(lambda context, value: _printed(value)),
        extensions=[_generation(jinja2), jinja2.ext.loopcontrols],
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.filters = {name: _paying(name, function) for name, function in sandbox.filters.items()}
    sandbox.filters |= {_STEP: _step, _MADE: _made, _PRINTED: _printed}
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": _today, "lipsum": _no_filler}
    return sandbox


def _generation(jinja2: Any) -> Any:
    class Generation(jinja2.ext.Extension):  # type: ignore[misc]
        """The tags around an answer, ``{% generation %}``: they mean nothing here, and their content is printed."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    return Generation


def _sandbox(jinja2: Any) -> Any:
    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc]
        """Pays for calls and operations."""

        intercepted_binops = frozenset({"*", "**", "+", "%"})

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            budget = _BUDGET.get()
            budget.step()
            owner = getattr(__obj, "__self__", getattr(getattr(__obj, "__wrapped__", None), "__self__", None))
            if isinstance(owner, str | bytes | int):
                budget.allow(__obj.__name__, [owner, *args, *kwargs.values()])
            return budget.made(super().call(__context, __obj, *args, **kwargs))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            budget = _BUDGET.get()
            budget.operate(operator, left, right)
            return budget.made(super().call_binop(context, operator, left, right))

    return Sandbox


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is weighed before and after."""
    before = 1 if hasattr(function, "jinja_pass_arg") else 0  # the environment or the context

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        budget.step()
        given = list(args)
        if name in ("join", "sum") and len(given) > before and hasattr(given[before], "__next__"):
            given[before] = list(given[before])  # to be weighed
        budget.allow(name, [*given[before:], *kwargs.values()])
        return budget.made(function(*given, **kwargs))

    return paid


def _step(characters: int) -> str:
    _BUDGET.get().step(characters)
    return ""


def _made(value: Any) -> Any:
    return _BUDGET.get().made(value)


def _printed(value: Any) -> Any:
    return _BUDGET.get().printed(value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it stands; jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> None:
    raise ValueError(str(message))


def _today(pattern: str) -> str:
    budget = _BUDGET.get()
    budget.allow("format", [pattern])
    return budget.now.strftime(pattern)


def _no_filler(*args: Any, **kwargs: Any) -> None:
    raise OverLimitError("lipsum() writes filler text, which no conversation holds")


def _excerpt(source: str) -> str:
    return repr(source[:60] + ("..." if len(source) > 60 else ""))
