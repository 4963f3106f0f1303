"""A Jinja2 environment in which a hostile template can neither leave nor run away.  Pure.

Owns what templates may touch and how much they may do, for prompts and for the chat templates of model
files.  What the names in a template mean is `promptdoc`'s and `llm.chat`'s business.

Theory of operation.  The base is Jinja2's immutable sandbox, which keeps templates from the insides of
Python, and which has had holes.  So attributes and filters are lists of what is allowed, nothing random
or dependent on time is among them, and one is refused the moment it is touched.

The sandbox says nothing of resources, so a budget does.  Every value that goes into an operation that
copies, compares, hashes or prints is weighed first, and what comes out counts as made:

    loops, comparisons, `~`, slices, keys    rewritten in the syntax tree to pass a filter that weighs
    bodies of loops and macros               rewritten to begin with a filter that charges for them
    + - * / // % **                          Jinja2's hook for binary operators
    filters and tests                        wrapped, one by one
    functions, methods, macros               Jinja2's hook for calls
    {{ }}, {% set %}, macros' text           `finalize` and `concat`

Where a result can be much larger than what goes in, its size is worked out before it is made.  All the
arithmetic is `jinjabudget`'s and `jinjaprices`'.  What is read at all is bounded by the pieces that Jinja2's
lexer cuts the code into: reading and compiling takes longer for each than rendering does.
"""

from __future__ import annotations

import functools
import json
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from llmc_build.template.jinjabudget import (
    FILTER_SIZES,
    METHOD_SIZES,
    WIDE_FILTERS,
    Budget,
    Limits,
    OverBudgetError,
    check_format,
    check_operator,
    check_widths,
)
from llmc_build.template.jinjaprices import A_CALL, of_argument, of_code, of_filter, of_method

MAX_PIECES = 30_000  # tokens of code in one template; those of large models have 5,000
_DROPPED_FILTERS = frozenset({"attr", "pprint", "random", "striptags", "urlize", "xmlattr"})
TEXT_METHODS = frozenset({
    "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
    "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split",
    "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill",
})  # fmt: skip


class RenderError(Exception):
    """A template that can't be rendered with these values: what went wrong, and in which line."""

    def __init__(self, message: str, line: int | None = None) -> None:
        self.line = line  # from 1; None: unknown
        super().__init__(message)


_BUDGET: ContextVar[Budget] = ContextVar("budget")  # unset while a template is compiled: nothing is folded


class BoxedEnvironment(ImmutableSandboxedEnvironment):
    """The environment; made once for many templates, since a rendering brings its own budget."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(
        self,
        *,
        strict: bool,
        globals: Mapping[str, Callable[..., object]] | None = None,  # noqa: A002  Jinja2's word
        filters: Mapping[str, Callable[..., object]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            undefined=StrictUndefined if strict else Undefined,
            autoescape=False,
            optimized=False,
            cache_size=0,
            finalize=_finalize,
            **options,
        )
        self.concat = _concat  # type: ignore[method-assign]
        offered = cast(dict[str, Callable[..., Any]], {**self.filters, "tojson": to_json, **(filters or {})})
        self.filters = {
            name: _weighed(name, call) for name, call in offered.items() if name not in _DROPPED_FILTERS
        }
        tests = cast(dict[str, Callable[..., Any]], self.tests)
        self.tests = {name: _weighed(f"is {name}", call) for name, call in tests.items()}
        self.known_filters = frozenset(self.filters)
        self.filters |= {
            _EACH: _each, _WEIGH: _weigh, _KEEP: _keep, _GLUE: _glue, _SPEND: _spend, _COMPARE: _compare
        }  # fmt: skip
        kept = {name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace")}
        self.globals.clear()
        self.globals.update({**kept, "range": _range, **(globals or {})})

    def compile_tree(self, tree: nodes.Template) -> Template:
        """A template from a syntax tree (which is changed)."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", SyntaxWarning
            )  # Python's, on `{{ 1[0] }}`: told when it is rendered
            return self.from_string(_Rewriter().visit(tree))

    def pieces(self, source: str) -> Iterator[tuple[int, str, str]]:
        """Line, kind and text of each token.  Raises TemplateSyntaxError, where there are too many too."""
        code = 0
        for line, kind, text in self.lexer.tokeniter(source, None):
            if kind not in ("data", "whitespace"):
                code += 1
                if code > MAX_PIECES:
                    message = f"it has more than {MAX_PIECES:,} words and signs of Jinja2 code"
                    raise TemplateSyntaxError(message, line)
            yield line, kind, text

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            allowed = attr in TEXT_METHODS
        elif isinstance(obj, dict):
            allowed = attr in ("get", "items", "keys", "values")
        elif isinstance(obj, list | tuple):
            allowed = attr in ("count", "index")
        else:
            allowed = isinstance(obj, Cycler | Joiner | LoopContext | Macro | Namespace)
        return allowed and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"the attribute {attribute!r} of a {type(obj).__name__} is out of bounds")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        inner = super().wrap_str_format(value)
        if inner is None:
            return None
        template = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            check_format(_BUDGET.get(), template, (args, kwargs), "{")
            return inner(*args, **kwargs)

        return bounded

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _BUDGET.get()
        check_operator(budget, operator, left, right)
        return budget.keep(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        listed = budget.each if isinstance(obj, LoopContext) else budget.listed
        args = tuple(listed(arg) for arg in args)
        # what begins with "_" is how Jinja2 passes scopes to functions that ask for them
        given = {name: value for name, value in kwargs.items() if not name.startswith("_")}
        if args or given:
            budget.weigh((args, given))
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str | list | tuple | dict):
            budget.weigh(owner)
        if isinstance(owner, str):
            budget.step(of_method(obj.__name__, owner, [*args, *given.values()]))
            if obj.__name__ in METHOD_SIZES:
                budget.room(METHOD_SIZES[obj.__name__](budget, owner, *args, **given))
        return budget.keep(super().call(context, obj, *args, **kwargs))


def render(template: Template, variables: Mapping[str, object], limits: Limits) -> str:
    """The text that a template makes.  Raises RenderError, and whatever a caller's global raises."""
    token = _BUDGET.set(Budget(limits))
    try:
        return _concat(template.root_render_func(template.new_context(dict(variables))))
    except Exception as error:
        raise RenderError(explain(error), _line(error, template)) from error
    finally:
        _BUDGET.reset(token)


def explain(error: BaseException) -> str:
    """One line on what a template did wrong."""
    if isinstance(error, RecursionError):
        return "the template is nested too deeply"
    if isinstance(error, MemoryError):
        return "the template needs too much memory"
    message = error.message if isinstance(error, TemplateSyntaxError) else error
    text = " ".join(str(message).split())[:300]
    known = isinstance(error, OverBudgetError | SecurityError) or type(error).__module__.startswith("jinja2")
    return text if known and text else f"{type(error).__name__}: {text}"


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`: plain JSON, not the form for HTML that Jinja2 has."""
    for width in (indent, *(separators or ())):
        if (len(width) if isinstance(width, str) else width or 0) > 16:
            raise OverBudgetError("the JSON is spaced too widely")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and (separators[0], separators[1]),
        sort_keys=sort_keys,
    )
    return _concat(encoder.iterencode(value))


def _line(error: BaseException, template: Template) -> int | None:
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if (
            "__jinja_template__" in trace.tb_frame.f_globals
            or trace.tb_frame.f_code.co_filename == "<template>"
        ):
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


# ---------------------------------------------------------------- what the syntax tree is made to call

# names that no template can write
_EACH, _WEIGH, _KEEP, _GLUE, _SPEND, _COMPARE = " each", " weigh", " keep", " glue", " spend", " compare"
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge, "in": lambda a, b: a in b, "notin": lambda a, b: a not in b,
}  # fmt: skip


class _Rewriter(NodeTransformer):
    """Leads what Jinja2 has no hook for through filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        steps = of_code(node.body)
        self.generic_visit(node)
        if node.test is not None:  # asked for each item, also where the body is not reached
            price = _spending(of_code([node.test]), node.test)
            node.test = nodes.And(price, node.test, lineno=node.lineno, environment=node.environment)
        node.iter = _call(_EACH, node.iter)
        return _charged(node, steps)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        steps = of_code(node.body)
        self.generic_visit(node)
        return _charged(node, steps + A_CALL)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        steps = of_code(node.body)
        self.generic_visit(node)
        return _charged(node, steps + A_CALL)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if any(operand.op in ("in", "notin") for operand in node.ops):  # the price depends on both sides
            place: dict[str, Any] = {"lineno": node.lineno, "environment": node.environment}
            signs = nodes.Const(tuple(operand.op for operand in node.ops), **place)
            operands = nodes.List([operand.expr for operand in node.ops], **place)
            return _call(_COMPARE, node.expr, signs, operands)
        node.expr = _through(_WEIGH, node.expr)
        for operand in node.ops:
            operand.expr = _through(_WEIGH, operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call(_GLUE, nodes.List(node.nodes, lineno=node.lineno, environment=node.environment))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _through(_WEIGH, node.node)
            return _call(_KEEP, node)
        node.arg = _through(_WEIGH, node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.key = _through(_WEIGH, node.key)
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _call(name, node)


def _call(name: str, node: nodes.Node, *args: nodes.Expr) -> nodes.Expr:
    value = cast(nodes.Expr, node)
    return nodes.Filter(
        value, name, list(args), [], None, None, lineno=node.lineno, environment=node.environment
    )


def _charged(node: Any, steps: int) -> nodes.Node:
    """A piece of a template that may be run often, with its price at its beginning."""
    if steps:
        price = nodes.ExprStmt(_spending(steps, node), lineno=node.lineno, environment=node.environment)
        node.body.insert(0, price)
    return cast(nodes.Node, node)


def _spending(steps: int, node: nodes.Node) -> nodes.Expr:
    return _call(_SPEND, nodes.Const(steps, lineno=node.lineno, environment=node.environment))


def _spend(steps: int) -> bool:
    _BUDGET.get().step(steps)
    return True


def _compare(left: Any, signs: tuple[str, ...], operands: list[Any]) -> bool:
    """`left in a`, `left == a in b` and so on, as Python chains them."""
    budget = _BUDGET.get()
    for sign, value in zip(signs, operands, strict=True):
        right = budget.listed(value)
        budget.weigh((left, right))
        if isinstance(left, str) and isinstance(right, str):
            budget.step(of_argument("find", right, [left]))
        if not _SIGNS[sign](left, right):
            return False
        left = right
    return True


def _keep(value: Any) -> Any:
    return _BUDGET.get().keep(value)


def _each(value: Any) -> list[Any]:
    return _BUDGET.get().each(value)


def _weigh(value: Any) -> Any:
    _BUDGET.get().weigh(value)
    return value


def _glue(values: list[Any]) -> str:
    _BUDGET.get().weigh(values)
    return _concat(map(str, values))


def _concat(pieces: Iterable[str]) -> str:
    budget = _BUDGET.get()
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        budget.step()
        budget.room(size)
        kept.append(piece)
    text = "".join(kept)
    budget.keep(text)
    return text


def _finalize(value: Any) -> Any:
    budget = _BUDGET.get(None)
    if budget is not None and not isinstance(value, Undefined):
        value = budget.listed(value)
        budget.weigh(value)
    return value


def _range(*args: int) -> range:
    found = range(*args)
    _BUDGET.get().step(len(found))
    return found


def _weighed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that accounts for what it takes and what it gives."""
    passed = 1 if hasattr(call, "jinja_pass_arg") else 0  # a context or the like comes before the value
    size = FILTER_SIZES.get(name)

    @functools.wraps(call)  # keeps Jinja2's mark of what is passed
    def run(*args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        own = [budget.listed(arg) for arg in args[passed:]]
        budget.step(of_filter(name, budget.weigh([own, kwargs]), own, kwargs))
        if name in WIDE_FILTERS:
            check_widths((*own[1:], *kwargs.values()))
        if size is not None:
            budget.room(size(budget, *own, **kwargs))
        return budget.keep(call(*args[:passed], *own, **kwargs))

    return run
