"""Augmentation policies as strings, such as "flip|quarter_turn|color(0.1, 0.1)"; known before Keras starts."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

# The operations, as they are registered in `operations`.
OPS = (
    "affine",
    "blur",
    "color",
    "crop",
    "cutmix",
    "cutout",
    "flip",
    "gamma",
    "grey_world",
    "hair",
    "ink",
    "microscope",
    "mixup",
    "noise",
    "quarter_turn",
    "ruler",
)
MIXES = ("cutmix", "mixup")  # operations that mix the images of a batch
# Named policies. Those of the competition's solutions are approximations where an operation is missing.
POLICIES = {
    "none": "",
    # Exact symmetries and mild color changes, which keep any lesion's appearance realistic.
    "light": "flip|quarter_turn|color(0.1, 0.1, 0.1, 0.02)",
    # C. Deotte, kaggle.com/cdeotte/triple-stratified-kfold-with-tfrecords (2020): rotation 180, shear 2, zoom 8 and
    # shift 8 (of 384 px), each times a normal draw; left-right flip; hue 0.01, saturation 0.3, contrast 0.2,
    # brightness 0.1.
    "deotte": "affine(rotate=180, shear=2, zoom=0.125, shift=0.021, normal=True)|flip(vertical=False)"
    "|color(0.1, 0.2, 0.3, 0.01)",
    # Third place (github.com/Masdevallia/3rd-place-kaggle-siim-isic-melanoma-classification, 2020): the same with shear
    # 1.5, zoom 6, shift 6, up to 20 hairs.
    "third_place": "affine(rotate=180, shear=1.5, zoom=0.167, shift=0.016, normal=True)|flip"
    "|color(0.1, 0.2, 0.3, 0.01)|hair(20, p=0.5)",
    # First place (haqishen et al., 2020, github.com/haqishen/SIIM-ISIC-Melanoma-Classification-1st-Place-Solution,
    # dataset.py): the eight symmetries, brightness and contrast 0.2, blur (three times as often) or noise, hue 10 of
    # 180, saturation 20 of 255, shift-scale-rotate 0.1, 0.1, 15 degrees with black beyond the edges, cutout 37.5 %.
    # Without its lens distortions, CLAHE and shift of value; blur and noise are drawn independently, as are the zooms
    # of the axes.
    "first_place": "flip|quarter_turn|color(brightness=0.2, p=0.75)|color(contrast=0.2, p=0.75)|blur(1.5, p=0.525)"
    "|noise(0.02, p=0.175)|color(saturation=0.08, hue=0.056, p=0.5)"
    "|affine(rotate=15, zoom=0.1, shift=0.1, fill='constant', p=0.85)|cutout(0.375, p=0.7)",
}


class Call(NamedTuple):
    """An operation of a policy with its literal arguments, and the text that they were in."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    text: str


def parse(policy: str) -> tuple[Call, ...]:
    """Parses a policy string, or the name of one of POLICIES.

    Args:
      policy: `op|op(1, key=2)|...`; the arguments are literals.

    Returns:
      The operations in order; their arguments are not checked.

    Raises:
      ValueError: bad syntax, or an unknown operation.
    """
    text = POLICIES.get(policy.strip(), policy)
    if not text.strip():
        return ()
    return tuple(_parse_op(part.strip(), policy) for part in text.split("|"))


def _parse_op(text: str, policy: str) -> Call:
    try:
        call = _parse_call(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        raise ValueError(
            f"augmentation policy {policy!r}: cannot parse {text!r}; expected the form op or op(1, key=2)"
        ) from error
    if call.name not in OPS:
        raise ValueError(
            f"augmentation policy {policy!r}: unknown op {call.name!r}; expected one of: {', '.join(OPS)}; or, alone, "
            f"a named policy: {', '.join(POLICIES)}"
        )
    return call


def _parse_call(text: str) -> Call:
    """Parses a call with literal arguments without evaluating it."""
    node = ast.parse(text, mode="eval").body
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise ValueError("not a name")
    if any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("** is not supported")
    args = [ast.literal_eval(arg) for arg in call.args]
    kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    if len(kwargs) < len(call.keywords):
        raise ValueError("repeated argument")
    return Call(call.func.id, args, kwargs, text)
