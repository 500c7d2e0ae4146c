"""What programs compiled for a TPU that is not here move, against what they have to, and a listing by hand."""

from __future__ import annotations

import importlib.util
import json

import pytest

from melanoma_tf.tpu import chips as chip_figures
from melanoma_tf.tpu import hlo_cost
from tests.support.process import run_command

pytestmark = pytest.mark.integration

# name: (function of the arguments, their shapes, bytes that have to pass the chip's memory)
PROGRAMS = {
    "elementwise": ("lambda x: jnp.sin(x) * 2", ["1024, 1024"], 2 * 2 * 1024**2),
    # The compiler lays 3 columns out as rows of a tile, which has 4.
    "filled up": ("lambda x: x + 1", ["4096, 3"], 2 * 2 * 4096 * 4),
    "transposed": ("lambda x: x.T", ["512, 2048"], 2 * 2 * 512 * 2048),
    "product": ("lambda x, y: x @ y", ["2048, 512", "512, 1024"], 2 * (2048 * 512 + 512 * 1024 + 2048 * 1024)),
    # What is between two products stays in the fast memory.
    "two products": (
        "lambda x, y, z: jnp.sin(x @ y) @ z",
        ["1024, 1024", "1024, 1024", "1024, 1024"],
        2 * 4 * 1024**2,
    ),
    # Too large for the fast memory, so that what is needed twice is written, and read twice.
    "summed first": ("lambda x: x - (x + x.T).sum(0)", ["16384, 16384"], None),
}


# A large product on each generation, for which its matrix units are all there is to wait for.
CHIPS = ("v3-8", "v4-8", "v5e-8", "v5p-8", "v6e-8")
SIDE = 4096


@pytest.fixture(scope="module")
def found():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    cases = {name: ("v5e-1", function, shapes) for name, (function, shapes, _) in PROGRAMS.items()}
    cases |= {chips: (chips, "lambda x: x @ x", [f"{SIDE}, {SIDE}"]) for chips in CHIPS}
    listed = ", ".join(
        f"{name!r}: ({chips!r}, {function}, {shapes})" for name, (chips, function, shapes) in cases.items()
    )
    code = (
        "from melanoma_tf import preflight; preflight.prepare('float32'); import dataclasses, jax, json; "
        "from melanoma_tf.tpu import hlo_cost; "
        "import jax.numpy as jnp; "
        "chip = lambda name: jax.sharding.SingleDeviceSharding(preflight.topology_devices(name)[0]); "
        "given = lambda shape, on: jax.ShapeDtypeStruct(tuple(map(int, shape.split(','))), 'bfloat16', sharding=on); "
        "program = lambda on, f, shapes: "
        "    jax.jit(f, out_shardings=on).lower(*[given(shape, on) for shape in shapes]).compile(); "
        "cost = lambda name, *case: dataclasses.asdict(hlo_cost.parse(program(chip(name), *case).as_text())); "
        f"print(json.dumps({{k: cost(*case) for k, case in {{{listed}}}.items()}}))"
    )
    done = run_command("-c", code, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (*_, least) in PROGRAMS.items() if least])
def test_what_passes_the_memory_is_what_comes_and_what_goes(found, name):
    assert found[name]["memory_bytes"] == pytest.approx(PROGRAMS[name][2], rel=0.01)


@pytest.mark.slow
def test_what_does_not_fit_into_the_fast_memory_passes_more_than_once(found):
    size = 2 * 16384**2
    assert 3 * size <= found["summed first"]["memory_bytes"] <= 6 * size


@pytest.mark.slow
@pytest.mark.parametrize("chips", CHIPS)
def test_cycles_are_a_few_more_than_the_matrix_units_take(found, chips):
    """Which holds the clock, too, that cycles are turned into seconds with."""
    least = SIDE**3 / chip_figures.CHIPS[chips.split("-")[0]].products
    assert least < found[chips]["cycles"] < 1.15 * least


TILED = "{1,0:T(8,128)(2,1)}"
FAST = "{1,0:T(8,128)(2,1)S(1)}"
LISTING = f"""HloModule jit_f, is_scheduled=true

%inner (p: bf16[8,128]) -> bf16[8,128] {{
  ROOT %x = bf16[8,128]{TILED} add(%p, %p), backend_config={{"estimated_cycles":"5000"}}
}}

ENTRY %main (a: bf16[100,30], b: f32[7]) -> bf16[30,100] {{
  %a = bf16[100,30]{TILED} parameter(0)
  %b = f32[7]{{0:T(128)}} parameter(1)
  %copy-start = (f32[7]{{0:T(128)S(1)}}, f32[7]{{0:T(128)}}, u32[]{{:S(2)}}) copy-start(%b)
  %copy-done = f32[7]{{0:T(128)S(1)}} copy-done(%copy-start)
  %slice-start = ((bf16[100,30]{TILED}), bf16[50,30]{FAST}, s32[]{{:S(2)}}) slice-start(%a), slice={{[0:50], [0:30]}}
  %slice-done = bf16[50,30]{FAST} slice-done(%slice-start)
  %whole = bf16[100,30]{FAST} custom-call(%slice-done, %slice-done), custom_call_target="ConcatBitcast"
  %fusion = (pred[9]{{0:T(512)(128)(4,1)}}, bf16[30,100]{FAST}) fusion(%whole, %copy-done, /*index=2*/%a), kind=kLoop, \
calls=%inner, metadata={{op_name="f"}}, backend_config={{"window_config":{{"estimated_cycles":"1200"}}}}
  %element = bf16[30,100]{FAST} get-tuple-element(%fusion), index=1
  %permute-start = (bf16[30,100]{FAST}, s4[64,128]{{1,0}}, u32[]{{:S(2)}}) collective-permute-start(%element)
  %permute-done = s4[64,128]{{1,0}} collective-permute-done(%permute-start)
  ROOT %out = bf16[30,100]{{0,1:T(8,128)(2,1)}} fusion(%element), backend_config={{"estimated_cycles":"34"}}
}}
"""


def test_a_listing_by_hand():
    flags, rows, half, columns = 512, 104 * 128 * 2, 56 * 128 * 2, 104 * 128 * 2
    read, written = 128 * 4 + half + rows, flags + 64 * 128 // 2 + columns
    assert hlo_cost.parse(LISTING) == hlo_cost.HloCost(read + written, 1234)


@pytest.mark.parametrize("listing", ["", "HloModule x", LISTING.replace("estimated_cycles", "cycles")])
def test_what_is_no_listing_of_a_tpu_is_refused(listing):
    with pytest.raises(ValueError, match="not the text of a program compiled for a TPU"):
        hlo_cost.parse(listing)
