"""Augmentation on the device, in `keras.ops`: one code for TensorFlow and JAX, for CPU, GPU and TPU."""
