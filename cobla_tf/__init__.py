"""COBLA: low-rank compression of trained Keras CNNs under hard MAC and parameter budgets."""

from typing import Any

_PUBLIC = {
    "compress": "cobla_tf.pipeline",
    "Result": "cobla_tf.result",
    "Config": "cobla_tf.config",
    "SolveConfig": "cobla_tf.config",
    "FineTuneConfig": "cobla_tf.config",
    "pareto": "cobla_tf.sweep",
    "Curve": "cobla_tf.curve",
    "CoblaError": "cobla_tf.errors",
    "Resource": "cobla_tf.resources",
    "read_resources": "cobla_tf.resources",
    "find_devices": "cobla_tf.strategy",
    "find_sites": "cobla_tf.sites",
    "export_model": "cobla_tf.export",
    "benchmark": "cobla_tf.speed",
    "measure_latency": "cobla_tf.layer_times",
    "write_resources": "cobla_tf.resources",
    "YellowFin": "cobla_tf.yellowfin",
}

__all__ = [
    "CoblaError", "Config", "Curve", "FineTuneConfig", "Resource", "Result", "SolveConfig", "YellowFin", "benchmark",
    "compress", "export_model", "find_devices", "find_sites", "measure_latency", "pareto", "read_resources",
    "write_resources",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that --help does not wait for TensorFlow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
