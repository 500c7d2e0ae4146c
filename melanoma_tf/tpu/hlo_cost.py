"""HBM traffic and estimated cycles of a compiled TPU program, parsed from its HLO text.

XLA's own count of bytes takes every operand of every instruction, also those in the chip's fast memory, and counts
copies from one memory to the other four or five times. Here only the chip's main memory (HBM) counts: each tensor that
an instruction reads or writes there once, in its layout, padded to whole registers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")  # bf16[128,96]{0,1:T(8,128)(2,1)S(1)}
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ELSEWHERE = "S("  # marks memory spaces: 1 is the fast one, 2 holds flags; no mark is main memory
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "copy-done", "slice-done"}


@dataclasses.dataclass(frozen=True)
class HloCost:
    """Cost of one call of a program on one chip.

    Attributes:
      memory_bytes: read from and written to main memory. Only the results of loops and branches count. A tensor that is
        read in part counts whole, and one that is read repeatedly, as by convolutions at the seams of tiles, once.
      cycles: sum of the compiler's estimates for each instruction. It has none for Pallas kernels, loops and branches,
        communication between chips, and copies that are not finished in time.
    """

    memory_bytes: int
    cycles: int


def parse(listing: str) -> HloCost:
    """The cost of a program from its text, as `jax.stages.Compiled.as_text` returns it for a TPU.

    Raises:
      ValueError: not the text of a TPU program.
    """
    entry = re.search(r"^ENTRY .*?^}", listing, re.DOTALL | re.MULTILINE)
    if not entry or not _CYCLES.search(entry[0]):
        raise ValueError("not the text of a program compiled for a TPU: no entry with estimated cycles")
    moved, types = 0, {}
    for name, kind, opcode, operands, target in _instructions(entry[0]):
        types[name] = kind
        if opcode in _FREE or target == "ConcatBitcast":
            continue
        if opcode in ("copy-start", "slice-start"):
            moved += _copied(opcode, kind)
            continue
        # An asynchronous operation reads its operands at its start and writes its results when done. Tuples are passed
        # on unread, as to a branch.
        passed = [] if opcode.endswith("-start") else [kind]
        if not opcode.endswith("-done"):
            passed += [types[operand] for operand in operands if not types.get(operand, "(").startswith("(")]
        moved += sum(_in_memory(shape) for each in passed for shape in _SHAPE.finditer(each))
    return HloCost(moved, sum(int(cycles) for cycles in _CYCLES.findall(entry[0])))


def _instructions(entry: str) -> Iterator[tuple[str, str, str, list[str], str]]:
    """Name, type, opcode, names of operands and target of a custom call of each instruction."""
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
    """Position after the parenthesis that closes the first one."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return place + 1
    return len(text)


def _copied(opcode: str, kind: str) -> int:
    """Bytes that a copy, of type (to, from, flag), or a slice, ((from), to, flag), moves from and to main memory."""
    first, second = list(_SHAPE.finditer(kind))[:2]
    source, target = (first, second) if opcode == "slice-start" else (second, first)
    return _size(target) * sum(_ELSEWHERE not in (shape[4] or "") for shape in (source, target))


def _in_memory(shape: re.Match[str]) -> int:
    return 0 if _ELSEWHERE in (shape[4] or "") else _size(shape)


def _size(shape: re.Match[str]) -> int:
    """Bytes of a shape, its minor dimensions padded to whole tiles."""
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
