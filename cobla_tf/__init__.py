"""COBLA: low-rank compression of trained Keras CNNs under hard MAC and parameter budgets."""

import lazy_loader

# Each name of __init__.pyi is imported on first use, so that --help does not wait for TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
