"""Augmentation on the device, in `keras.ops`: the same code for TensorFlow and JAX on CPU, GPU and TPU."""
