"""Which names of a Jinja2 syntax tree are references to values.  Pure.

Owns the scopes of Jinja2's statements and what a free name means in a prompt:

    x               the variable x
    x.y, x['y']     the value of step y of workflow x, or field y of what x is
    x.y[0].z        what that path leads to in a value, which is JSON then
    x.upper()       a method of the text of variable x
    range(3)        one of Jinja2's few functions

A name may be bound on some ways to a place and not on others (`{% if a %}{% set x = 1 %}{% endif %}{{ x }}`).
It is then a reference too.  Variables keep their names in the tree, so that where a prompt binds one it is
Jinja2 that decides; what Jinja2 can't spell, and what is filtered, becomes a name that nothing can bind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from jinja2 import nodes

from llmc_build.errors import did_you_mean
from llmc_build.jsonpath import Path
from llmc_build.placeholder import PLACEHOLDER, Problem, Ref, reference
from llmc_build.template.jinjabox import TEXT_METHODS, BoxedEnvironment

_REFUSED: Mapping[type[nodes.Node], str] = {
    nodes.Block: "block",
    nodes.Extends: "extends",
    nodes.FromImport: "from",
    nodes.Import: "import",
    nodes.Include: "include",
}
_SPECIAL = frozenset(
    {"caller", "kwargs", "loop", "self", "super", "varargs"}
)  # names that Jinja2 gives a meaning
_FIRST_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_STEP_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def _part(node: nodes.Getattr | nodes.Getitem) -> str | int | None:
    """What a node reaches for: a name, or the number of an entry; None: it is not known before it runs."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    key = node.arg
    sign = -1 if isinstance(key, nodes.Neg) else 1
    value = getattr(key.node if isinstance(key, nodes.Neg) else key, "value", None)
    if type(value) is int:
        return sign * value
    return value if isinstance(value, str) and sign == 1 else None


@dataclass(slots=True)
class _Scope:
    bound: set[str] = field(default_factory=set)  # on every way to here
    maybe: set[str] = field(default_factory=set)  # on some way to here

    def inner(self, *names: str) -> _Scope:
        return _Scope(self.bound | set(names), self.maybe - set(names))

    def join(self, branches: Iterable[_Scope]) -> None:
        """What holds behind an `if`."""
        scopes = list(branches)
        before = set(self.bound)
        self.bound = set.intersection(*(scope.bound for scope in scopes))
        self.maybe.update(*(scope.bound | scope.maybe for scope in scopes))
        self.maybe -= self.bound | before


class Walk:
    """One way through a tree, which it changes; what it found is in its attributes."""

    def __init__(
        self,
        tree: nodes.Template,
        environment: BoxedEnvironment,
        *,
        references: Mapping[str, Ref],  # made-up name -> what it stands for
        constants: set[str],  # made-up names of quoted texts
        prefix: str,  # with which made-up names begin
        place: Callable[[int, str], int],  # line, word -> offset in the source
    ) -> None:
        self.tree = tree
        self.found: list[tuple[str, Ref]] = []  # name in the tree, reference
        self.bound_heads: set[str] = set()  # made-up names that stand for something the prompt binds
        self.problems: list[Problem] = []
        self._environment = environment
        self._references = references
        self._constants = constants
        self._prefix = prefix
        self._place = place
        self._stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
        tree.body = self._body(tree.body, _Scope())

    # ------------------------------------------------------------ statements

    def _body(self, body: list[nodes.Node], scope: _Scope) -> list[nodes.Node]:
        return [self._visit(node, scope) for node in body]

    def _visit(self, node: Any, scope: _Scope) -> Any:
        if type(node) in _REFUSED:
            word = _REFUSED[type(node)]
            self._problem(f"`{{% {word} %}}` does not work in a prompt", node, word, "a prompt is one text")
            return node
        handler = _HANDLERS.get(type(node))
        return handler(self, node, scope) if handler else self._children(node, scope)

    def _children(self, node: nodes.Node, scope: _Scope) -> nodes.Node:
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, name, self._visit(value, scope))
            elif isinstance(value, list):
                setattr(
                    node, name, [self._visit(v, scope) if isinstance(v, nodes.Node) else v for v in value]
                )
        return node

    def _bind(self, target: nodes.Node, scope: _Scope) -> None:
        if isinstance(target, nodes.NSRef):
            if target.name not in scope.bound | scope.maybe:
                hint = f"say {{% set {target.name} = namespace() %}} before"
                self._problem(f'"{target.name}" is not a namespace', target, target.name, hint)
            return
        names = {name.name for name in target.find_all(nodes.Name)}
        names |= {target.name} if isinstance(target, nodes.Name) else set()
        scope.bound |= names
        scope.maybe -= names

    def _for(self, node: nodes.For, scope: _Scope) -> nodes.Node:
        node.iter = self._visit(node.iter, scope)
        inner = scope.inner("loop")
        self._bind(node.target, inner)
        if node.test is not None:
            node.test = self._visit(node.test, inner)
        node.body = self._body(node.body, inner)
        node.else_ = self._body(node.else_, scope.inner())
        return node

    def _if(self, node: nodes.If, scope: _Scope) -> nodes.Node:
        branches = []
        for branch in (node, *node.elif_):
            branch.test = self._visit(branch.test, scope)
            branches.append(scope.inner())
            branch.body = self._body(branch.body, branches[-1])
        branches.append(scope.inner())
        node.else_ = self._body(node.else_, branches[-1])
        scope.join(branches)
        return node

    def _assign(self, node: nodes.Assign, scope: _Scope) -> nodes.Node:
        node.node = self._visit(node.node, scope)
        self._bind(node.target, scope)
        return node

    def _assign_block(self, node: nodes.AssignBlock, scope: _Scope) -> nodes.Node:
        if node.filter is not None:
            node.filter = self._visit(node.filter, scope)
        node.body = self._body(node.body, scope.inner())
        self._bind(node.target, scope)
        return node

    def _with(self, node: nodes.With, scope: _Scope) -> nodes.Node:
        node.values = [self._visit(value, scope) for value in node.values]
        inner = scope.inner()
        for target in node.targets:
            self._bind(target, inner)
        node.body = self._body(node.body, inner)
        return node

    def _filter_block(self, node: nodes.FilterBlock, scope: _Scope) -> nodes.Node:
        node.filter = self._visit(node.filter, scope)
        node.body = self._body(node.body, scope.inner())
        return node

    def _macro(self, node: nodes.Macro, scope: _Scope) -> nodes.Node:
        scope.bound.add(node.name)
        return self._callable(node, scope)

    def _call_block(self, node: nodes.CallBlock, scope: _Scope) -> nodes.Node:
        node.call = self._visit(node.call, scope)
        return self._callable(node, scope)

    def _callable(self, node: Any, scope: _Scope) -> nodes.Node:
        """The body runs later, when names that are set behind it may be bound."""
        inner = scope.inner("caller", "varargs", "kwargs", *(name.name for name in node.args))
        inner.maybe |= self._stored - inner.bound
        node.defaults = [self._visit(default, inner) for default in node.defaults]
        node.body = self._body(node.body, inner)
        return cast(nodes.Node, node)

    # ------------------------------------------------------------ expressions

    def _name(self, node: nodes.Name, scope: _Scope) -> nodes.Node:
        if node.ctx != "load" or node.name in self._constants:
            return node
        ref = self._references.get(node.name)
        if ref is None:
            if node.name in scope.bound:
                return node
            return self._refer(node, (node.name,), ())
        own = self._spelled(ref.names) if not ref.filters and not ref.path else None
        first = _FIRST_NAME.match(ref.names[0])
        if first and first[0] in scope.bound | scope.maybe and not (own and own not in scope.bound):
            self.bound_heads.add(node.name)
            return node
        self.found.append((own or node.name, ref))
        return self._named(own or node.name, node)

    def _refer(self, node: nodes.Name, names: tuple[str, ...], path: Path) -> nodes.Node:
        name = (self._spelled(names) if not path else None) or f"{self._prefix}_{len(self.found)}"
        start = self._place(node.lineno, node.name)
        ref = reference(names, path, (), start)
        self.found.append((name, replace(ref, end=start + len(ref.text))))
        return self._named(name, node)

    def _spelled(self, names: tuple[str, ...]) -> str | None:
        """The name that Jinja2 has for a variable too, where there is one."""
        own = len(names) == 1 and _FIRST_NAME.fullmatch(names[0]) and names[0] not in _SPECIAL
        return names[0] if own and names[0] not in self._environment.globals else None

    def _named(self, name: str, node: nodes.Name) -> nodes.Name:
        return nodes.Name(name, "load", lineno=node.lineno, environment=node.environment)

    def _is_free(self, node: nodes.Node, scope: _Scope) -> bool:
        return (
            isinstance(node, nodes.Name)
            and node.name not in scope.bound | scope.maybe | self._constants
            and node.name not in self._references
        )

    def _inside(self, node: nodes.Getattr | nodes.Getitem, scope: _Scope) -> nodes.Node:
        """`x.y[0]`: with a free name at its root it is a reference, whole; else Jinja2's affair."""
        path: list[str | int] = []
        root: nodes.Node = node
        while isinstance(root, nodes.Getattr | nodes.Getitem):
            part = _part(root)
            if part is None:
                return self._children(node, scope)
            path.insert(0, part)
            root = root.node
        if not self._is_free(root, scope):
            return self._children(node, scope)
        name = cast(nodes.Name, root)
        if isinstance(path[0], str) and _STEP_NAME.fullmatch(path[0]):
            return self._refer(name, (name.name, path[0]), tuple(path[1:]))
        return self._refer(name, (name.name,), tuple(path))

    def _call(self, node: nodes.Call, scope: _Scope) -> nodes.Node:
        called = node.node
        if self._is_free(called, scope):
            name = cast(nodes.Name, called).name
            if name not in self._environment.globals:
                hint = did_you_mean(name, self._environment.globals)
                self._problem(f'"{name}" is not a function', called, name, hint)
            node.node = nodes.Const(None, lineno=called.lineno, environment=called.environment)
        elif isinstance(called, nodes.Getattr):
            if self._is_free(called.node, scope) and called.attr not in TEXT_METHODS | {"format"}:
                hint = did_you_mean(called.attr, TEXT_METHODS)
                self._problem(f'a text has no method "{called.attr}"', called, called.attr, hint)
            called.node = self._visit(called.node, scope)
            node.node = nodes.Const(None, lineno=called.lineno, environment=called.environment)
        else:
            return self._children(node, scope)
        self._children(node, scope)
        node.node = called
        return node

    def _filter(self, node: nodes.Filter, scope: _Scope) -> nodes.Node:
        known = self._environment.known_filters
        if node.name == "path":
            problem = "the filter `path` works in `command` only"
            self._problem(problem, node, "path", "leave it out: the value itself is used")
        elif node.name not in known:
            self._problem(f'unknown filter "{node.name}"', node, node.name, did_you_mean(node.name, known))
        return self._children(node, scope)

    def _test(self, node: nodes.Test, scope: _Scope) -> nodes.Node:
        known = self._environment.tests
        if node.name not in known:
            self._problem(f'unknown test "{node.name}"', node, node.name, did_you_mean(node.name, known))
        return self._children(node, scope)

    def _const(self, node: nodes.Const, scope: _Scope) -> nodes.Node:
        """A placeholder in quotes, as conditions have it, would be compared letter by letter."""
        match = PLACEHOLDER.search(node.value) if isinstance(node.value, str) else None
        if match and not match["quote"]:
            name = (match["one"] or f"{match['workflow']}.{match['step']}") + match["path"]
            problem = f"`{match[0]}` stands in quotes inside of Jinja2 code, where it is no placeholder"
            self.problems.append(Problem(problem, self._place(node.lineno, node.value), f"write {name}"))
        return node

    def _problem(self, message: str, node: nodes.Node, word: str, hint: str | None) -> None:
        self.problems.append(Problem(message, self._place(node.lineno, word), hint))


_HANDLERS: Mapping[type[nodes.Node], Callable[[Walk, Any, _Scope], nodes.Node]] = {
    nodes.Assign: Walk._assign,
    nodes.AssignBlock: Walk._assign_block,
    nodes.Call: Walk._call,
    nodes.CallBlock: Walk._call_block,
    nodes.Const: Walk._const,
    nodes.Filter: Walk._filter,
    nodes.FilterBlock: Walk._filter_block,
    nodes.For: Walk._for,
    nodes.Getattr: Walk._inside,
    nodes.Getitem: Walk._inside,
    nodes.If: Walk._if,
    nodes.Macro: Walk._macro,
    nodes.Name: Walk._name,
    nodes.Test: Walk._test,
    nodes.With: Walk._with,
}
