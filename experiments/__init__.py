"""Flagfiles and runners of the paper's experiments, found by name after installation as cobla_tf.experiments."""
