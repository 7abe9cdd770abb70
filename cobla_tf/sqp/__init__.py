"""The SQP loop and its parts; float64 NumPy, no TensorFlow."""
