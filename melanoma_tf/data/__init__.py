"""Shards to batches with tf.data, on the host."""
