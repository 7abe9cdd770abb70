"""compress(): a trained Keras model and its budgets in, a smaller plain Keras model and a report out."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras

from cobla_tf.account import Account
from cobla_tf.baselines.method import Method
from cobla_tf.budgets import merge_budgets
from cobla_tf.cluster import own_config
from cobla_tf.compression import Compression
from cobla_tf.config import LAYERS, Config, as_config
from cobla_tf.errors import ConfigError
from cobla_tf.plan import make_plan
from cobla_tf.progress import doing
from cobla_tf.reading import batches_of
from cobla_tf.replicated import check_replicated
from cobla_tf.resources import Resource
from cobla_tf.result import Result
from cobla_tf.selection import COBLA, method_name
from cobla_tf.sites import check_patterns
from cobla_tf.solution import WarmStart, check_warm
from cobla_tf.strategy import find_devices, watched
from cobla_tf.unfinished import held


def compress(
    model: keras.Model,
    dataset: Any,
    *,
    macs: float | None = None,
    params: float | None = None,
    budgets: Mapping[str, float | None] | None = None,
    resources: Sequence[Resource] = (),
    scheme: str = "spatial",
    exclude: Sequence[str] = (),
    layers: str | Sequence[str] = LAYERS[:1],
    validation: Any = None,
    loss: Any = None,
    method: str | Method = COBLA,
    warm: WarmStart | None = None,
    config: Config | None = None,
) -> Result:
    """Compress a trained CNN by low-rank approximation under hard budgets.

    Args:
        model: functional or Sequential, with weights; it is not changed.
        dataset: training data, a tf.data.Dataset of (images, labels) batches or a pair of arrays; with tuples or dicts
            of arrays for several inputs or outputs, as Keras' fit takes them.
        macs, params: budgets on the sites' kernels: a fraction up to 1 of the original, or an absolute number above 1.
        budgets: the same for any resource by its name, e.g. {"latency": 0.6}; a resource without one is only reported.
        resources: what sites cost beside MACs and params, from measurements of yours or a CSV (`read_resources`).
            Absolute budgets are in its unit, which should be so small that they are above 1.
        scheme: "spatial" (Eq. 3), "channel" (Eq. 4), or "auto": for each site what keeps most within the budgets.
        exclude: fnmatch patterns of layer names to leave alone.
        layers: kinds of layers to decompose, of config.LAYERS or "all"; Conv2D alone is the paper's choice.
        validation: held-out data, in either form, for every accuracy in the report; without it a random tenth of an
            in-memory `dataset` is set apart and never optimised on.
        loss: anything that keras.losses.get takes; (sparse) categorical cross-entropy by default. For several outputs
            also a list or dict, as Keras' compile takes it; the sum is minimised, None leaves an output out.
        method: what selects the ranks: "cobla", or a published method in cobla_tf.baselines.RIVALS, under the same
            budgets; some of these set their own cost and take no budgets. A `baselines.Method` is one of your own.
        warm: `Result.warm` of a compression of the same model, scheme and layers under other budgets, best somewhat
            looser ones: the solve starts from there and takes fewer gradients.
        config: everything else.

    The seed in `config` is set for Python, NumPy and TensorFlow alike. With an `output_dir`, the same call made again
    after an interruption goes on where that one had come to.

    Raises:
        CoblaError: bad input, found before any work, with one sentence that says what to do.
    """
    check_patterns(exclude)
    check_warm(warm)
    if warm is not None and method != COBLA:
        raise ConfigError(f"{method_name(method)} begins nowhere: a warm start is for the method {COBLA} alone.")
    config = own_config(as_config(config))
    devices = find_devices(config.strategy)
    devices.check_batch(config.batch_size)
    if devices.count > 1:
        check_replicated(config.fine_tune)
    keras.utils.set_random_seed(config.seed)
    choice = {
        "budgets": merge_budgets(macs, params, budgets),
        "scheme": scheme,
        "exclude": list(exclude),
        "layers": layers,
    }
    with watched(devices), held(config.output_dir):
        account = Account()
        with account.clock("checks and decomposition"), doing("checks and decomposition"):
            data = {"dataset": dataset, "validation": validation, "loss": loss}
            plan = make_plan(model, **data, **choice, resources=resources, method=method, config=config)
        if warm is not None:
            warm.check(plan.sites.sigmas)
        asked = {"method": method_name(method), "loss": plan.loss.description, **choice}
        asked |= {"resources": own} if (own := [resource.name for resource in resources]) else {}
        asked |= {"warm": warm.digest.hex()} if warm else {}
        # what a lost worker raises must not pass for a broken batch
        with batches_of("dataset") if plan.streamed else nullcontext(), watched(devices):
            result = Compression(config, model, plan, asked, account, devices).run(warm)
        devices.meet()
        return result
