"""Optimizers by name, and what may be added to each: Lookahead, layer-wise learning rates, accumulated gradients.

An addition is a class before the optimizer's own, in the order of inheritance, so that all state is in
`optimizer.variables` and Keras' moving averages, loss scale, accumulation and replicas apply to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import ml_collections
from keras import ops

from melanoma_tf.core import keras_compat
from melanoma_tf.models import backbones
from melanoma_tf.training import schedule
from melanoma_tf.training.step import SkippingOptimizer


class RectifiedAdam(keras.optimizers.Optimizer):
    """Adam whose step is scaled by how well its second moment is known (Liu et al. 2020, algorithm 2).

    The first steps, whose second moment is hardly known, follow the first moment alone. Defaults, threshold and epsilon
    are those of `tfa.optimizers.RectifiedAdam`, without its AMSGrad and its own warm-up.

    Args:
      learning_rate: float or schedule.
      beta_1: decay of the first moment.
      beta_2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled, times the learning rate; None for none.
      sma_threshold: samples that the second moment must be worth (rho_t); the paper's is 4, exclusive.
      name: of the optimizer.
      **kwargs: of `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        sma_threshold: float = 5.0,
        name: str = "RectifiedAdam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon, self.sma_threshold = beta_1, beta_2, epsilon, sma_threshold

    def build(self, variables: list[Any]) -> None:
        """Creates both moments of each variable."""
        if self.built:
            return
        super().build(variables)
        self._first, self._second = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates a variable and its moments."""
        index = self._get_variable_index(variable)
        first, second = self._first[index], self._second[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign_add(first, (gradient - first) * (1 - self.beta_1))
        self.assign_add(second, (ops.square(gradient) - second) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, "float32")
        # 1 - beta^t by its logarithm: the difference itself would lose four digits at the first steps.
        known_1, known_2 = (-ops.expm1(step * math.log(beta)) for beta in (self.beta_1, self.beta_2))
        longest = 2 / (1 - self.beta_2) - 1
        length = longest - 2 * step * (1 - known_2) / known_2
        rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        known = length >= self.sma_threshold
        factor = ops.cast(ops.sqrt(ops.where(known, rectified, 1.0)), variable.dtype)
        root = ops.sqrt(second / ops.cast(known_2, variable.dtype)) + self.epsilon
        mean = first / ops.cast(known_1, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * ops.where(known, factor * mean / root, mean))

    def get_config(self) -> dict[str, Any]:
        names = ("beta_1", "beta_2", "epsilon", "sma_threshold")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class _DecayInStep(keras.optimizers.Optimizer):
    """Decays each weight within its own step, where its learning rate is known, instead of all before the first."""

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        pass

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.weight_decay and keras_compat.is_decayed(self, variable):
            self.assign_sub(variable, variable * (ops.cast(learning_rate, variable.dtype) * self.weight_decay))
        super().update_step(gradient, variable, learning_rate)


class Lookahead(_DecayInStep):
    """Addition: slow weights that follow the optimizer's every few steps, which then go on from there.

    Zhang et al. 2019, algorithm 1.

    Args:
      *args: of the optimizer.
      sync_period: steps between two updates of the slow weights.
      slow_step_size: part of the way that the slow weights go, in (0,1].
      **kwargs: of the optimizer.
    """

    def __init__(self, *args: Any, sync_period: int = 6, slow_step_size: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sync_period, self.slow_step_size = sync_period, slow_step_size

    def build(self, variables: list[Any]) -> None:
        """Creates the slow weights."""
        if self.built:
            return
        super().build(variables)
        self._slow = self.add_optimizer_variables(variables, "slow")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Makes the optimizer's step, and every `sync_period` steps sets both weights to a point between them."""
        slow = self._slow[self._get_variable_index(variable)]
        # Taken at the first step: weights may be loaded after the optimizer was built.
        start = ops.where(ops.equal(self.iterations, 0), *map(ops.convert_to_tensor, (variable, slow)))
        super().update_step(gradient, variable, learning_rate)
        due = ops.equal((self.iterations + 1) % self.sync_period, 0)
        between = start + self.slow_step_size * (variable - start)
        self.assign(slow, ops.where(due, between, start))
        self.assign(variable, ops.where(due, between, ops.convert_to_tensor(variable)))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "sync_period": self.sync_period, "slow_step_size": self.slow_step_size}


class LayerDecay(_DecayInStep):
    """Addition: each variable has its own share of the learning rate.

    Args:
      *args: of the optimizer.
      rates: path of each variable -> factor of its learning rate and weight decay.
      **kwargs: of the optimizer.
    """

    def __init__(self, *args: Any, rates: Mapping[str, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rates = dict(rates)

    def build(self, variables: list[Any]) -> None:
        """Finds the factor of each variable."""
        if self.built:
            return
        super().build(variables)
        self._rates = [self.rates[variable.path] for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Makes the optimizer's step with the variable's own rate."""
        rate = ops.cast(learning_rate, variable.dtype) * self._rates[self._get_variable_index(variable)]
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rates": dict(self.rates)}


class AccumulatedAverage(keras.optimizers.Optimizer):
    """Addition: moving averages advance with the weights, not with each batch whose gradients are accumulated."""

    def _update_model_variables_moving_average(self, trainable_variables: list[Any]) -> None:
        if not self.use_ema:
            return
        due = ops.equal((keras_compat.batches(self) + 1) % self.gradient_accumulation_steps, 0)
        momentum = ops.where(due, self.ema_momentum, 1.0)
        momentum = ops.where(ops.equal(self.iterations, 0), 0.0, momentum)  # as Keras has it, from the first weights
        averages = keras_compat.moving_averages(self)
        for variable in trainable_variables:
            share = ops.cast(momentum, variable.dtype)
            average = averages[variable.path]
            average.assign(share * average + (1 - share) * variable)


OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "radam": RectifiedAdam}


def extended(
    optimizer: type[keras.optimizers.Optimizer], *additions: type[keras.optimizers.Optimizer]
) -> type[keras.optimizers.Optimizer]:
    """The class of an optimizer with additions, the outermost first."""
    classes = (*additions, optimizer)
    return type("".join(each.__name__ for each in classes), classes, {}) if additions else optimizer


def layer_rates(classifier: keras.Model, decay: float) -> dict[str, float]:
    """Factors of the learning rates that fall from the head to the stem (Bao et al. 2022, BEiT, table 8).

    Args:
      classifier: of `backbones.build_classifier`.
      decay: factor from one stage to the one before it, in (0,1].

    Returns:
      Path of each variable -> factor: 1 for the head, `decay` for the last stage of the backbone, and so on.
    """
    stages = backbones.stages(classifier)
    return {
        variable.path: decay**depth
        for depth, layers in enumerate(reversed(stages))
        for layer in layers
        for variable in layer.weights
    }


def learning_rate(
    config: ml_collections.ConfigDict, steps_per_epoch: int, epochs_before: Sequence[int] = ()
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule of a run, by updates of the weights: batches over config.accumulate_steps.

    Args:
      config: see configs/default.py.
      steps_per_epoch: batches of an epoch.
      epochs_before: earlier values of config.epochs if the run was extended.

    Raises:
      ValueError: the run has no update, or the warm-up is not shorter than the run.
    """
    ends = [epochs * steps_per_epoch // config.accumulate_steps for epochs in (*epochs_before, config.epochs)]
    if not all(ends):
        raise ValueError(
            f"config.accumulate_steps={config.accumulate_steps} is more than the run has batches, {steps_per_epoch} an "
            f"epoch; lower it"
        )
    warmup = round(config.warmup_epochs * steps_per_epoch / config.accumulate_steps)
    return schedule.extended(
        {end: schedule.warmup_cosine(config.lr, end, warmup, config.final_lr_fraction) for end in ends}
    )


def build_optimizer(
    config: ml_collections.ConfigDict,
    steps_per_epoch: int,
    epochs_before: Sequence[int] = (),
    classifier: keras.Model | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule, inside a SkippingOptimizer.

    Args:
      config: see configs/default.py.
      steps_per_epoch: batches of an epoch.
      epochs_before: earlier values of config.epochs if the run was extended.
      classifier: the model to train; needed if config.layer_decay is not 1.

    Raises:
      ValueError: unknown config.optimizer, or a schedule that is impossible.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown config.optimizer={config.optimizer!r}; expected one of: {', '.join(OPTIMIZERS)}")
    rate = learning_rate(config, steps_per_epoch, epochs_before)
    options: dict[str, Any] = {"use_ema": config.ema > 0, "ema_momentum": config.ema or 0.99}
    additions: list[type[keras.optimizers.Optimizer]] = []
    decoupled = config.optimizer != "adam"
    if decoupled:
        options["weight_decay"] = config.weight_decay
    if config.lookahead:
        additions.append(Lookahead)
        options["sync_period"] = config.lookahead
    if config.layer_decay != 1:
        additions.append(LayerDecay)
        options["rates"] = layer_rates(classifier, config.layer_decay)
    if config.accumulate_steps > 1:
        additions.append(AccumulatedAverage)
        options["gradient_accumulation_steps"] = config.accumulate_steps
        rate = schedule.of_updates(rate, config.accumulate_steps)
    inner = extended(OPTIMIZERS[config.optimizer], *additions)(rate, **options)
    if decoupled:
        # "variable": ConvNeXt's layer scales, which Keras leaves without a name. "power": of generalized-mean pooling.
        inner.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "variable", "power"])
    # Only float16 needs a large scale. Elsewhere 1, and its halving and doubling are exact.
    scale = 2.0**15 if keras.config.dtype_policy().name == "mixed_float16" else 1.0
    return SkippingOptimizer(inner, initial_scale=scale)
