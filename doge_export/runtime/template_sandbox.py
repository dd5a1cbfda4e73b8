"""Jinja's sandbox with a budget: a template is rewritten so that each of its steps is counted.

Calls, filters, tests and operators have hooks in Jinja's environment. Loops, texts, lists and slices have none, so the
parsed template gets them: an expression `x` becomes `x | hook`. No template can use a hook or see the budget by itself,
since their names hold spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .template_limits import (
    LONGEST_SOURCE,
    Budget,
    TemplateLimitError,
    check_call,
    check_filter,
    check_operator,
    weigh,
)

# The filters that are offered: not those for web pages, nor those whose time and memory nobody can foretell.
FILTERS = frozenset(
    """abs attr capitalize count d default dictsort e escape first float format groupby indent int items join last
    length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string sum title
    tojson trim truncate unique upper urlencode wordcount""".split()  # noqa: SIM905  44 lines otherwise
)
# Methods of texts and numbers that make much out of little, and that no conversation needs.
REFUSED_METHODS = frozenset(
    ("encode", "expandtabs", "from_bytes", "fromkeys", "maketrans", "striptags", "to_bytes", "translate")
)
BUDGET = "the budget"  # among the variables of a rendering
STEP, ROUNDS, TEXT, VALUE = "count step", "count rounds", "count text", "count value"


class Sandbox(ImmutableSandboxedEnvironment):
    """Runs filters and tests without counting them."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute."""
        return attr not in REFUSED_METHODS and super().is_safe_attribute(obj, attr, value)


class LimitedEnvironment(Sandbox):
    """A sandbox whose templates are counted; rendering one needs a `Budget` under the name `BUDGET`."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, filters: Mapping[str, Callable[..., Any]], extensions: Sequence[type[Extension]]) -> None:
        """filters: in place of Jinja's own, or beside them."""
        # All hooks take the context. So the compiler, which has none, computes no constant by them, without a budget.
        super().__init__(trim_blocks=True, lstrip_blocks=True, finalize=_written, extensions=extensions)
        plain = Sandbox()
        plain.filters |= filters
        hooks = {STEP: _step, ROUNDS: _rounds, TEXT: _text, VALUE: _value}
        self.filters = {name: _counted_filter(plain, name) for name in FILTERS} | hooks
        self.tests = {name: _counted_test(plain, name) for name in plain.tests}
        del self.globals["lipsum"]  # random text

    def compiled(self, source: str) -> Template:
        """The template of a source, with its hooks. Raises Jinja's and Python's errors for a source that is none."""
        if len(source) > LONGEST_SOURCE:
            raise TemplateLimitError(f"it has {len(source):,} characters; the most are {LONGEST_SOURCE:,}")
        return self.from_string(_Hooks().visit(self.parse(source)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator, counted."""
        budget = budget_of(context)
        check_operator(budget, operator, left, right)
        return budget.made(self.binop_table[operator](left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a macro, function or method, counted."""
        budget = budget_of(context)
        if isinstance(obj, LoopContext) and args:  # a recursive loop
            args = (budget.paced(args[0]), *args[1:])
        else:
            args = check_call(budget, obj, args)
        result = budget.made(super().call(context, obj, *args, **kwargs))
        if isinstance(result, list | tuple):  # the parts of a text are new texts
            budget.spend(weigh(result, None))
        return result


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that a template's context belongs to."""
    budget: Budget = context.parent[BUDGET]  # where a context has the variables that it was given
    return budget


def _counted_filter(plain: Sandbox, name: str) -> Callable[..., Any]:
    @pass_context
    def counted(context: Context, value: Any, *args: Any, **named: Any) -> Any:
        budget = budget_of(context)
        if isinstance(value, Iterator):
            value = budget.paced(value)
        value = check_filter(budget, name, value, args, named)
        result = plain.call_filter(name, value, args, named, context)
        return budget.paced(result) if isinstance(result, Iterator) else budget.made(result)

    return counted


def _counted_test(plain: Sandbox, name: str) -> Callable[..., bool]:
    @pass_context
    def counted(context: Context, value: Any, *args: Any, **named: Any) -> bool:
        budget_of(context).spend(1)
        return bool(plain.call_test(name, value, args, named, context))

    return counted


# The hooks, and the finalizer, through which each value goes that is written


@pass_context
def _step(context: Context, value: Any) -> Any:
    budget_of(context).spend(1)
    return value


@pass_context
def _rounds(context: Context, items: Any, literal: int) -> Iterator[Any]:
    return budget_of(context).paced(items, literal)


@pass_context
def _text(context: Context, values: list[Any]) -> str:
    texts, budget = [str(value) for value in values], budget_of(context)
    budget.room(sum(map(len, texts)))
    text: str = budget.made("".join(texts))
    return text


@pass_context
def _value(context: Context, value: Any) -> Any:
    return budget_of(context).made(value)


@pass_context
def _written(context: Context, value: Any) -> str:
    text = str(value)
    budget_of(context).spend(1 + len(text))
    return text


class _Hooks(NodeTransformer):
    """Puts the hooks into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        literal = _literal_length(node)
        self.generic_visit(node)
        node.iter = _through(ROUNDS, node.iter, literal)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        # To compare with a constant takes no longer than the constant is.
        is_short = all(
            operand.op not in ("in", "notin") and nodes.Const in (type(node.expr), type(operand.expr))
            for operand in node.ops
        )
        self.generic_visit(node)
        if not is_short:
            node.expr = _through(STEP, node.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _through(TEXT, nodes.List(node.nodes, lineno=node.lineno, environment=node.environment))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _through(VALUE, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        return self._container(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self._container(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        return self._container(node, [pair.value for pair in node.items])

    def _container(self, node: nodes.Expr, items: Sequence[nodes.Expr]) -> nodes.Expr:
        if all(isinstance(item, nodes.Const) for item in items):
            return node  # no larger than the source
        self.generic_visit(node)
        return _through(VALUE, node)


def _literal_length(node: nodes.Node) -> int:
    """Characters that a body writes at most, besides its values; at least 1."""
    return 1 + sum(len(part.data) for part in node.find_all(nodes.TemplateData))


def _through(hook: str, node: nodes.Node, *constants: int) -> nodes.Filter:
    place: dict[str, Any] = {"lineno": node.lineno, "environment": node.environment}
    arguments = [nodes.Const(constant, **place) for constant in constants]
    return nodes.Filter(cast(nodes.Expr, node), hook, arguments, [], None, None, **place)
