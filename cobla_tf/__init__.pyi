"""Public names, for type checkers and editors; __init__.py imports each on first use."""

from .config import Config as Config
from .config import FineTuneConfig as FineTuneConfig
from .config import SolveConfig as SolveConfig
from .curve import Curve as Curve
from .errors import CoblaError as CoblaError
from .export import export_model as export_model
from .layer_times import measure_latency as measure_latency
from .pipeline import compress as compress
from .resources import Resource as Resource
from .resources import read_resources as read_resources
from .resources import write_resources as write_resources
from .result import Result as Result
from .sites import find_sites as find_sites
from .speed import benchmark as benchmark
from .strategy import find_devices as find_devices
from .sweep import pareto as pareto
from .yellowfin import YellowFin as YellowFin
