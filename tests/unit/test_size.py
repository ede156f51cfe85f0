"""Whoever wants to trust it has to read it: what decides, what commits, and the loop stay short enough for that."""

from __future__ import annotations

import ast
from pathlib import Path

import harvest_brain

MAX_STATEMENTS = 2_100


def test_the_core_the_redis_side_and_the_loop_can_be_read_in_one_sitting() -> None:
    package = Path(harvest_brain.__file__).parent
    files = [*package.glob("core/*.py"), *package.glob("redis/*.py"), package / "daemon.py"]
    statements = sum(_statements(file.read_text(encoding="utf-8")) for file in files)
    assert 1_000 < statements <= MAX_STATEMENTS


def _statements(source: str) -> int:
    """How many statements there are, imports included. A docstring is none."""
    nodes = list(ast.walk(ast.parse(source)))
    texts = sum(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in nodes)
    return sum(isinstance(node, ast.stmt) for node in nodes) - texts
