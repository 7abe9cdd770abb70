"""What was measured of keras.applications, as a Markdown page."""

from collections.abc import Sequence

from cobla_tf.experiments.result_file import Record

from cobla_tf.texts import share_text, short_text, table

HEAD = (
    "architecture", "sites", "MACs", "in sites", "params", "in sites", "difference", "MACs kept", "params kept",
    "reloaded", "SavedModel", "LiteRT", "GiB", "seconds",
)  # fmt: skip


def markdown(records: list[Record], keras_version: str, sizes: str, exports: Sequence[Record] = ()) -> str:
    """The table, and what its columns mean."""
    exported = {record["name"]: record for record in exports}
    rows = [
        _cells(record, exported.get(record["name"], {}))
        for record in sorted(records, key=lambda record: record["name"])
    ]
    return f"""# keras.applications

Made by `python -m cobla_tf.experiments.applications` with Keras {keras_version}: {len(records)} architectures with
random weights, images {sizes}, scheme spatial, in double
precision. BatchNorm layers have the statistics of random images.

- *in sites*: the share of the MACs of all kernels, and of all params of the model, in layers that can be decomposed.
- *difference*: between the outputs of the network and of its factors at full rank, relative to the largest output;
  1e-10 is allowed.
- *kept*: by POS-CVX, without data, at budgets of 50 % on both, counted anew in the saved and reloaded network;
  *reloaded*: by how much saving changed its outputs.
- *SavedModel*, *LiteRT*: the halved network in single precision and its exports, run in a fresh process: the norm of
  what their outputs differ by, over that of the outputs; 1e-4 is allowed (`--exported`; all have images [96, 96, 3]).
- *GiB*, *seconds*: peak memory and time of all but the exports, whatever else the machine did meanwhile.

{table(HEAD, rows, "github")}
"""


def _cells(record: Record, exported: Record) -> tuple[str, ...]:
    if "error" in record:
        return (record["name"], record["error"], *[""] * (len(HEAD) - 2))
    return (
        record["name"],
        str(record["sites"]),
        short_text(record["macs"]),
        share_text(record["site_macs"], record["macs"]),
        short_text(record["params"]),
        share_text(record["site_params"], record["params"]),
        f"{record['difference']:.1e}",
        share_text(record["kept_macs"], record["site_macs"]),
        share_text(record["kept_params"], record["site_params"]),
        f"{record['reloaded']:.0e}",
        *(_difference(exported, name) for name in ("savedmodel", "litert")),
        f"{record['peak_bytes'] / 2**30:.1f}",
        f"{record['seconds']:.0f}",
    )


def _difference(exported: Record, name: str) -> str:
    return f"{exported[name]:.0e}" if name in exported else exported.get("error", "-")
