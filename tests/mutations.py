"""Flips one comparison after another in a file that decides, and asks its tests whether they notice.

    python -m tests.mutations licensing/trust.py     prints each flip that survives, and the score

Each comparison is replaced by its near misses (`<` by `<=` and by `>=`), each `and` by `or`, each `not x` by `x`, each
`min` by `max`. A flip runs in a process of its own: the changed source takes the module's place before the tests are
imported.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

NEAR_MISSES: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
#: Longest run of the tests with one flip; one that hangs is noticed, too.
TIMEOUT_S = 120

#: Runs the tests of a module whose source comes on standard input. Quick: few examples, no search for simpler ones.
RUNNER = """
import importlib, importlib.util, sys
name, test, source = sys.argv[1], sys.argv[2], sys.stdin.read()
spec = importlib.util.spec_from_loader(name, loader=None)
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source, name, "exec"), module.__dict__)
parent, _, leaf = name.rpartition(".")
setattr(importlib.import_module(parent), leaf, module)
import pytest
sys.exit(pytest.main([test, "-x", "-q", "--no-header", "-p", "no:cacheprovider"]))
"""


def flips(source: str) -> Iterator[tuple[str, str]]:
    """(where and what, the whole source with one flip)."""
    for number, node in enumerate(ast.walk(ast.parse(source))):
        for change in _changes(node):
            tree = ast.parse(source)
            found = next(each for place, each in enumerate(ast.walk(tree)) if place == number)
            before = ast.unparse(found)
            change(found)
            yield f"line {found.lineno}: {before}  ->  {ast.unparse(found)}", ast.unparse(tree)  # type: ignore[attr-defined]


def _changes(node: ast.AST) -> Iterator[Callable[[Any], None]]:
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            yield from (partial(_compare, place, other) for other in NEAR_MISSES[type(op)])
    elif isinstance(node, ast.BoolOp):
        yield partial(_join, ast.Or if isinstance(node.op, ast.And) else ast.And)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _unnegate
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        yield partial(_choose, "max" if node.func.id == "min" else "min")


def _compare(place: int, op: type[ast.cmpop], node: ast.Compare) -> None:
    node.ops[place] = op()


def _join(op: type[ast.boolop], node: ast.BoolOp) -> None:
    node.op = op()


def _choose(name: str, node: Any) -> None:
    node.func.id = name


def _unnegate(node: ast.UnaryOp) -> None:
    """`not x` becomes `not not x`: the truth of x."""
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def survives(path: str, source: str) -> bool:
    """Whether the tests of the file at `path` pass with this source in its place."""
    room, name = path.removesuffix(".py").split("/")
    words = [sys.executable, "-c", RUNNER, f"{room}.{name}", f"tests/{room}/test_{name}.py"]
    try:
        ended = subprocess.run(
            words, input=source, cwd=ROOT, text=True, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def survivors(path: str, at_once: int = 2) -> tuple[list[str], int]:
    """The flips of this file that no test notices, and how many there were."""
    source = (ROOT / path).read_text()
    if not survives(path, ast.unparse(ast.parse(source))):
        raise AssertionError(f"the tests of {path} fail as it is")
    tried = list(flips(source))
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(lambda flip: survives(path, flip[1]), tried))
    return [flip for (flip, _), survived in zip(tried, found, strict=True) if survived], len(tried)


if __name__ == "__main__":
    for file in sys.argv[1:]:
        left, count = survivors(file)
        for flip in left:
            sys.stdout.write(f"{file} {flip}\n")
        sys.stdout.write(f"{file}: {count - len(left)} of {count} flips noticed\n")
