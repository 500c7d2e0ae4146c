"""What a program compiled for a TPU moves, and how long its compiler expects it to take, read from its listing.

XLA's own count of bytes takes every operand of every instruction, also those that lie in the chip's fast memory, and
what is copied from one memory to the other four or five times. Here only the chip's main memory (HBM) counts, each
tensor that an instruction reads or writes there once and as it is laid out, filled up to whole registers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")  # bf16[128,96]{0,1:T(8,128)(2,1)S(1)}
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ELSEWHERE = "S("  # marks memory spaces: 1 is the fast one, 2 holds flags; none is the main memory
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "copy-done", "slice-done"}


@dataclasses.dataclass(frozen=True)
class HloCost:
    """Of one call of a program, on one chip.

    memory_bytes: read from and written to its main memory. Of what a loop or a branch does within only the results
        count. What an instruction reads in part counts whole, and what it reads more than once, as convolutions do at
        the seams of their tiles, once.
    cycles: the sum of what the compiler expects of each instruction. It expects nothing of Pallas kernels, loops and
        branches, of what chips tell one another, and of copies that are not done in time.
    """

    memory_bytes: int
    cycles: int


def effort(listing: str) -> HloCost:
    """Of what `jax.stages.Compiled.as_text` gives for a TPU.

    Raises:
      ValueError: it is not the listing of a TPU's program.
    """
    entry = re.search(r"^ENTRY .*?^}", listing, re.DOTALL | re.MULTILINE)
    if not entry or not _CYCLES.search(entry[0]):
        raise ValueError("not the listing of a program compiled for a TPU: no entry whose instructions have cycles")
    moved, types = 0, {}
    for name, kind, opcode, operands, target in _instructions(entry[0]):
        types[name] = kind
        if opcode in _FREE or target == "ConcatBitcast":
            continue
        if opcode in ("copy-start", "slice-start"):
            moved += _copied(opcode, kind)
            continue
        # Of two parts of one operation the first takes its operands and the second gives its results. A tuple is passed
        # on as it is, to a branch for one.
        passed = [] if opcode.endswith("-start") else [kind]
        if not opcode.endswith("-done"):
            passed += [types[operand] for operand in operands if not types.get(operand, "(").startswith("(")]
        moved += sum(_in_memory(shape) for each in passed for shape in _SHAPE.finditer(each))
    return HloCost(moved, sum(int(cycles) for cycles in _CYCLES.findall(entry[0])))


def _instructions(entry: str) -> Iterator[tuple[str, str, str, list[str], str]]:
    """(name, type, opcode, names of operands, target of a custom call) of each."""
    for line in entry.splitlines():
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        name, rest = instruction.groups()
        end = _closing(rest) if rest.startswith("(") else rest.index(" ")
        call = re.match(r"\s*([\w\-]+)\((.*?)\)(?:,|$)", rest[end:])
        if call:
            target = re.search(r'custom_call_target="(\w+)"', rest)
            yield name, rest[:end], call[1], re.findall(r"%([\w.\-]+)", call[2]), target[1] if target else ""


def _closing(text: str) -> int:
    """Where what the parenthesis at the beginning holds is over."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return place + 1
    return len(text)


def _copied(opcode: str, kind: str) -> int:
    """Bytes read from main memory and written there. Its type: (to, from, flag), of a slice ((from), to, flag)."""
    first, second = list(_SHAPE.finditer(kind))[:2]
    source, target = (first, second) if opcode == "slice-start" else (second, first)
    return _size(target) * sum(_ELSEWHERE not in (shape[4] or "") for shape in (source, target))


def _in_memory(shape: re.Match[str]) -> int:
    return 0 if _ELSEWHERE in (shape[4] or "") else _size(shape)


def _size(shape: re.Match[str]) -> int:
    """Bytes of a shape, its minor dimensions filled up to whole tiles."""
    kind, dimensions, order, layout = shape.groups()
    bits = 8 if kind == "pred" else int((re.search(r"\d+", kind) or ["0"])[0])  # of f8e4m3fn 8, of a token none
    lengths = [int(length) for length in dimensions.split(",") if length]
    minor_first = [lengths[int(place)] for place in order.split(",") if place] if order else lengths[::-1]
    tile = re.match(r"T\(([\d,]+)\)", layout or "")
    tiles = [int(length) for length in tile[1].split(",")][::-1] if tile else []
    count = 1
    for place, length in enumerate(minor_first):
        whole = tiles[place] if place < len(tiles) else 1
        count *= -(-length // whole) * whole
    return -(-count * bits // 8)
