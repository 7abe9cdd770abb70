"""pareto(): the whole trade-off between accuracy and cost, each budget's solve begun from the last one's solution."""

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import logging

from cobla_tf.baselines.method import Method
from cobla_tf.budgets import check_budgets, merge_budgets, resolve_limits
from cobla_tf.cluster import own_config
from cobla_tf.config import AUTO, RANK_METHODS, Config, as_config
from cobla_tf.curve import FILES, Curve, Point
from cobla_tf.curve_figure import curve_figure
from cobla_tf.elements import form_of
from cobla_tf.errors import BudgetError, ConfigError, SolverError
from cobla_tf.export_formats import FILE_NAMES
from cobla_tf.files import replace_with
from cobla_tf.graph import check_model
from cobla_tf.notes import left_from_before
from cobla_tf.pipeline import compress
from cobla_tf.plan import make_plan
from cobla_tf.plots import save_png
from cobla_tf.progress import doing
from cobla_tf.provenance import told_beside
from cobla_tf.qp import resolve_solver
from cobla_tf.reading import as_examples
from cobla_tf.report_files import NAMES
from cobla_tf.resources import check_resources
from cobla_tf.selection import COBLA, method_name, takes_budgets
from cobla_tf.solution import WarmStart
from cobla_tf.speed import time_together
from cobla_tf.unfinished import Unfinished, held, removed_together

OF_A_POINT = (*FILE_NAMES.values(), NAMES["report page"], NAMES["report data"])
"""Files in a point's folder that could pass for its own where it has none."""
WARM_SHARE = 1 / 2
"""Of the iterations, what a solve from another's solution has at most; it nearly always stops by itself before."""

Budgets = dict[str, float]


def pareto(
    model: keras.Model,
    dataset: Any,
    *,
    macs: Sequence[float] | None = None,
    params: Sequence[float] | None = None,
    budgets: Mapping[str, Sequence[float]] | None = None,
    methods: Sequence[str] = (COBLA,),
    validation: Any = None,
    config: Config | None = None,
    **options: Any,
) -> Curve:
    """Compress under several budgets, and with several methods.

    Args:
        model, dataset, validation, config: as for `compress`; each point has a folder of its own in the output folder,
            and the curve lies beside them as a table, a CSV file and a picture. The same call made again after an
            interruption goes on where that one had come to. With `config.benchmark` the original and all points are
            timed in turn at the end, in LiteRT with one image and one thread. The callbacks of `config.fine_tune` are
            the same objects at all points: what one remembers, as ModelCheckpoint(save_best_only=True) does the best
            value, holds from point to point, and a file of its own is overwritten.
        macs, params, budgets: as for `compress`, but a list each, all of the same length; best from loose to tight.
        methods: names of methods that take budgets; one of your own goes with `compress` alone.
        **options: scheme, layers, exclude, resources and loss, as for `compress`.

    Returns:
        a point for every budget and method; one that cannot be met says why, and the log before the first solve (with
        the scheme "auto" at its turn).

    Raises:
        CoblaError: bad input, or no budget that can be met.
    """
    config = own_config(as_config(config))
    check_resources(resources := options.get("resources", ()))
    asked = _asked(merge_budgets(macs, params, budgets))
    check_sweep(methods, asked, [resource.name for resource in resources])
    if COBLA in methods:
        resolve_solver(config.solve.qp_solver)
    asked = sorted(asked, key=lambda point: -next(iter(point.values())))
    check_model(model)
    form = form_of(model, options.get("loss"))
    shared = {
        "dataset": as_examples(dataset, form=form),
        "validation": None if validation is None else as_examples(validation, "validation", form),
        **options,
    }
    with held(config.output_dir), removed_together():
        refusals = _refusals(model, methods, asked, config, shared)
        with told_beside(sweep={"methods": list(methods), "budgets": asked}):
            curve = _curve(_Sweep(model, config, shared, asked, refusals), methods)
        if config.benchmark:
            curve = _timed(curve, model, shared["dataset"].probe().images)
        if config.output_dir is not None:
            _write(curve, config.output_dir)
            for note in left_from_before(config.output_dir, OF_A_POINT, {}):
                logging.warning("%s; those of this sweep lie in the folders of its points", note)
            for name in [point.name for point in curve if point.broken]:
                logging.warning("%s: the same call tries again, and has the others from what is kept of them", name)
    return curve


def _refusals(
    model: keras.Model, methods: Collection[str], asked: Sequence[Budgets], config: Config, shared: dict[str, Any]
) -> list[str]:
    """Why each budget cannot be met, told at once; "" where it can, or where its turn will tell."""
    if shared.get("scheme") == AUTO:  # what a site costs follows from the scheme that it has under a budget
        return [""] * len(asked)
    method = COBLA if COBLA in methods else next(iter(methods))
    with doing("checks and decomposition"):
        costs = make_plan(model, budgets={"macs": 1.0}, method=method, config=config, **shared).costs  # a budget of all
    refusals = []
    for budgets in asked:
        try:
            resolve_limits(costs, budgets)
            refusals.append("")
        except BudgetError as error:
            logging.warning("%s: %s", Point(method, budgets).asked, error)
            refusals.append(str(error))
    return refusals


def _curve(sweep: "_Sweep", methods: Sequence[str]) -> Curve:
    points = tuple(point for method in methods for point in sweep.run(method))
    if all(point.report is None for point in points):
        failed = [point for point in points if point.broken]
        if failed:
            raise SolverError(f"none of the {len(points)} points came to an end; the last one: {failed[-1].failure}")
        raise BudgetError(f"none of the {len(points)} budgets can be met; the last one: {points[-1].failure}")
    return Curve(points)


def _timed(curve: Curve, model: keras.Model, images: Any) -> Curve:
    """With the time that every point's network takes, in one run with the original and all others."""
    met = [point for point in curve.points if point.model]
    timings, notes = time_together(model, [point.model for point in met], images=images)
    for note in notes:
        logging.warning("the curve over time is left out: %s", note)
    own = dict(zip(map(id, met), timings, strict=bool(timings)))
    return Curve(tuple(dataclasses.replace(point, timing=own.get(id(point))) for point in curve.points))


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """What all points share: the model, the settings, and arguments of compress(); all budgets, and why not."""

    model: keras.Model
    config: Config
    shared: dict[str, Any]
    asked: Sequence[Budgets]
    refusals: Sequence[str]

    def run(self, method: str) -> list[Point]:
        """All budgets by one method, each from the solution of the last."""
        points: list[Point] = []
        warm: WarmStart | None = None
        for number, (budgets, refusal) in enumerate(zip(self.asked, self.refusals, strict=True), start=1):
            point = Point(method, budgets)
            if refusal:
                point = self._without(point, refusal)
            else:
                logging.info("%s, point %d of %d: %s", method, number, len(self.asked), point.asked)
                point, warm = self._solved(point, warm)
            points.append(point)
        return points

    def _without(self, point: Point, failure: str, broken: bool = False) -> Point:
        """A point without a network."""
        folder = self.config.output_dir
        stale = [] if folder is None else left_from_before(folder / point.name, OF_A_POINT, {})
        return dataclasses.replace(point, failure="; ".join([failure, *stale]), broken=broken)

    def _solved(self, point: Point, warm: WarmStart | None) -> tuple[Point, WarmStart | None]:
        own = {"method": point.method, "budgets": point.budgets, "warm": warm}
        config = self._config(point.name, shorter=warm is not None)
        try:
            result = compress(self.model, **own, config=config, **self.shared)
        except (BudgetError, SolverError) as error:
            logging.warning("%s: %s", point.name, error)
            broken = not isinstance(error, BudgetError)
            if broken:
                Unfinished(None).end(complete=False)  # it may not have come to files of its own
            return self._without(point, str(error), broken), warm
        met = dataclasses.replace(point, report=result.report, model=result.model)
        if self.shared.get("scheme") == AUTO:  # other budgets, other schemes: its masks mean other terms
            return met, None
        return met, result.warm or warm

    def _config(self, name: str, shorter: bool) -> Config:
        solve, folder = self.config.solve, self.config.output_dir
        if shorter:
            solve = dataclasses.replace(solve, iterations=math.ceil(solve.iterations * WARM_SHARE))
        folder = None if folder is None else folder / name
        return dataclasses.replace(self.config, solve=solve, output_dir=folder, benchmark=False)  # timed all at once


def _asked(lists: Mapping[str, Sequence[float] | None]) -> list[Budgets]:
    """One mapping a point."""
    given = {name: values for name, values in lists.items() if values is not None}
    lengths = {
        len(values) if isinstance(values, Collection) and not isinstance(values, str) else 0
        for values in given.values()
    }
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigError(
            f"expected lists of budgets of one length, at least one budget in each, got {given or 'none'}; give "
            "macs=[0.7, 0.5, 0.3], params=[0.7, 0.5, 0.3], say."
        )
    points = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
    return [{name: value for name, value in point.items() if value is not None} for point in points]


def check_sweep(methods: Sequence[str], asked: Sequence[Budgets], further: Sequence[str]) -> None:
    """Check methods and the form of all budgets, before anything is known of the model.

    Args:
        methods: as for `pareto`.
        asked: budgets by resource, one mapping a point.
        further: names of the resources that there are beside MACs and params.

    Raises:
        ConfigError: methods that are no sequence of names, a method that there is not, or that takes no budgets, or a
            point that is asked for twice.
        BudgetError: as `budgets.check_budgets`.
    """
    if isinstance(methods, str):
        raise ConfigError(f"methods must be a sequence of names, got the string {methods!r}; write [{methods!r}].")
    if not isinstance(methods, Collection):
        raise ConfigError(f"methods must be a sequence of names, got {methods!r}; write ['{COBLA}', 'pos_cvx'].")
    unfit = [name for name in methods if name not in RANK_METHODS or not takes_budgets(name)]
    if unfit or not methods:
        able = ", ".join(name for name in RANK_METHODS if takes_budgets(name))
        own = any(isinstance(name, Method) for name in unfit)
        raise ConfigError(
            f"a sweep takes names of methods that take budgets ({able}), got "
            f"{', '.join(str(method_name(name)) for name in unfit) or 'none'}"
            f"{'; a method of your own goes with compress(), one budget at a time' if own else ''}."
        )
    for budgets in asked:
        check_budgets(budgets, further)
    points = Counter(Point(method, budgets).name for method in methods for budgets in asked)
    twice = [name for name, count in points.items() if count > 1]
    if twice:
        raise ConfigError(f"a sweep takes each method and budget once, got {', '.join(twice)} several times.")


def _write(curve: Curve, folder: Path) -> None:
    page = f"![Accuracy against cost]({FILES['curve picture']})\n\n{curve.text('github')}\n"
    replace_with(folder / FILES["curve"], lambda path: path.write_text(page, encoding="utf-8"))
    replace_with(folder / FILES["curve data"], lambda path: path.write_text(curve.to_csv(), encoding="utf-8"))
    replace_with(folder / FILES["curve picture"], lambda path: save_png(curve_figure(curve), path))
