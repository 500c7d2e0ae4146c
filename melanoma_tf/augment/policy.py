"""Augmentation policies: strings such as "flip|quarter_turn|color(0.1, 0.1)" to operations, and the layer of them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from melanoma_tf.augment import color, geometry, mixing, random
from melanoma_tf.augment.operations import (
    DRAWS_PER_OP,
    OPS,
    Affine,
    GreyWorld,
    Linear,
    Mixing,
    Op,
    QuarterTurn,
    Symmetric,
)

_ALIASES = 1.4  # zoomed out by more than this, images show patterns that are not there

# Ready policies. The competition's solutions are approximations where an operation of theirs is not here.
POLICIES = {
    "none": "",
    # Exact symmetries and mild colour: what no lesion minds.
    "light": "flip|quarter_turn|color(0.1, 0.1, 0.1, 0.02)",
    # C. Deotte, kaggle.com/cdeotte/triple-stratified-kfold-with-tfrecords (2020): rotation 180, shear 2, zoom 8 and
    # shift 8 (of 384 px), each times a normal number; left-right flip; hue 0.01, saturation 0.3, contrast 0.2,
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
    # Without its lens distortions, CLAHE and shift of value; blur and noise are drawn apart, and the axes zoom apart.
    "first_place": "flip|quarter_turn|color(brightness=0.2, p=0.75)|color(contrast=0.2, p=0.75)|blur(1.5, p=0.525)"
    "|noise(0.02, p=0.175)|color(saturation=0.08, hue=0.056, p=0.5)"
    "|affine(rotate=15, zoom=0.1, shift=0.1, fill='constant', p=0.85)|cutout(0.375, p=0.7)",
}


# ------------------------------------------------------------------------------------------------------ strings


def parse(policy: str) -> tuple[Op, ...]:
    """The operations of a policy string or of a name in POLICIES.

    Raises:
      ValueError: not the grammar `op|op(1, key=2)|...`, an unknown operation or argument; it names what there is.
    """
    text = POLICIES.get(policy.strip(), policy)
    if not text.strip():
        return ()
    return tuple(_parse_op(part.strip(), policy) for part in text.split("|"))


def _parse_op(text: str, policy: str) -> Op:
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name):
            raise ValueError("no name")
        name = call.func.id
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("**")
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(kwargs) < len(call.keywords):
            raise ValueError("the same argument twice")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"augmentation policy {policy!r}: {text!r} is not of the form op or op(1, key=2)") from error
    if name not in OPS:
        raise ValueError(
            f"augmentation policy {policy!r}: no op {name!r}; available ops: {', '.join(sorted(OPS))}; "
            f"ready policies, each to be named alone: {', '.join(POLICIES)}"
        )
    try:
        op: Op = OPS[name](*args, **kwargs)
    except TypeError as error:
        arguments = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(OPS[name]))
        signature = f"{name}({arguments})"
        raise ValueError(f"augmentation policy {policy!r}: {text!r} does not fit {signature}") from error
    return op


# -------------------------------------------------------------------------------------------------------- layer


def _resample(run: Sequence[Op], images: Any, drawn: Sequence[Any], method: geometry.Method, dtype: str) -> Any:
    """Geometry of a row of operations, at least one of which is an Affine, as one resampling."""
    _, height, width, _ = images.shape
    maps = [
        op.matrix(parameters, height, width) if isinstance(op, Affine) else geometry.symmetry_matrix(parameters)
        for op, parameters in zip(run, drawn, strict=True)
    ]
    affine = [op for op in run if isinstance(op, Affine)]
    # What the output shows was last changed by the last operation.
    composed = functools.reduce(geometry.product, maps)
    return geometry.affine(
        images,
        composed,
        fill=affine[-1].fill,
        method=method,
        reach=functools.reduce(lambda inner, op: op.reach(inner), reversed(affine), math.sqrt(0.5)) * height,
        antialias=math.prod(op.zooms_out for op in affine) > _ALIASES,
        dtype=dtype,
    )


def _recolour(run: Sequence[Linear], images: Any, drawn: Sequence[Any]) -> Any:
    """Colour of a row of operations as one pass over the pixels."""
    maps = [op.matrix(images, parameters) for op, parameters in zip(run, drawn, strict=True)]
    return color.transform(images, functools.reduce(color.together, maps))


def _joins(run: Sequence[Op], op: Op) -> bool:
    """Whether an operation is done at once with those before it."""
    if isinstance(op, Symmetric | Affine) and isinstance(run[0], Symmetric | Affine):
        fills = {each.fill for each in (*run, op) if isinstance(each, Affine)}
        return len(fills) < 2
    # GreyWorld has to see what those before it have made.
    return isinstance(op, Linear) and isinstance(run[0], Linear) and not isinstance(op, GreyWorld)


@keras.saving.register_keras_serializable("melanoma_tf")
class Augment(keras.layers.Layer):
    """u8 images and per-example seeds to [0,1] float images, augmented when training.

    Inputs: images u8[B,H,W,3], seeds u32[B]. Output: [B,H,W,3] in [0,1] in the layer's compute dtype; the arithmetic
    is float32, but for what `resample_dtype` says and for what TPUs (bfloat16) and GPUs (TF32) make of matrix products.
    In inference it only scales. Values are clipped once, at the end. method, resample_dtype: of `geometry.affine`.
    """

    def __init__(
        self,
        policy: str = "none",
        method: geometry.Method = "gather",
        resample_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.policy, self.method, self.resample_dtype = policy, method, resample_dtype
        self.ops = parse(policy)
        # Keras compiles with XLA where every layer allows it. The kernel is for CPUs, where XLA's convolutions are ten
        # times slower than TensorFlow's; Keras itself would take them for a CPU beside a GPU.
        self.supports_jit = geometry.compiles_under_xla(method)

    def call(self, images: Any, seeds: Any, training: bool = False) -> Any:
        if not (training and self.ops):
            return ops.cast(_to_unit(images), self.compute_dtype)
        if any(isinstance(op, QuarterTurn) for op in self.ops) and images.shape[1] != images.shape[2]:
            raise ValueError(f"quarter_turn needs square images, got {images.shape[1]} x {images.shape[2]}")
        is_unit = False  # u8 (or, once resampled, float) in 0..255 until an operation needs [0,1]
        for run, drawn in self._runs(seeds):
            if any(isinstance(op, Affine) for op in run):
                images = _resample(run, images, drawn, self.method, self.resample_dtype)
                continue
            if isinstance(run[0], Symmetric):
                together = functools.reduce(geometry.together, drawn)
                images = run[0].apply(images, *drawn) if len(run) == 1 else geometry.dihedral(images, together)
                continue
            if not is_unit:
                images, is_unit = _to_unit(images), True
            images = _recolour(run, images, drawn) if isinstance(run[0], Linear) else run[0].apply(images, drawn[0])
        if not is_unit:
            images = _to_unit(images)
        return ops.cast(ops.clip(images, 0.0, 1.0), self.compute_dtype)

    def _runs(self, seeds: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """Operations that are done at once, all of one kind, with their parameters."""
        runs: list[list[tuple[int, Op]]] = []
        for index, op in enumerate(self.ops):
            if runs and _joins([before for _, before in runs[-1]], op):
                runs[-1].append((index, op))
            else:
                runs.append([(index, op)])
        for indexed in runs:
            drawn = [op.draw(random.Numbers(seeds, index * DRAWS_PER_OP)) for index, op in indexed]
            yield [op for _, op in indexed], drawn

    @property
    def mixes(self) -> bool:
        """Whether labels have to be mixed too."""
        return any(isinstance(op, Mixing) for op in self.ops)

    def labels(self, targets: Any, seeds: Any, height: int, width: int) -> Any:
        """The targets f32[B], or metadata f32[B,...], of what `call` makes of a batch in training."""
        for index, op in enumerate(self.ops):
            if isinstance(op, Mixing):
                drawn = op.draw(random.Numbers(seeds, index * DRAWS_PER_OP))
                targets = mixing.labels(targets, op.share(drawn, height, width))
        return targets

    def compute_output_shape(self, images_shape: Any, seeds_shape: Any = None) -> Any:
        return images_shape

    def get_config(self) -> dict[str, Any]:
        own = {"policy": self.policy, "method": self.method, "resample_dtype": self.resample_dtype}
        return {**super().get_config(), **own}


def _to_unit(images: Any) -> Any:
    return ops.cast(images, "float32") * (1.0 / 255.0)
