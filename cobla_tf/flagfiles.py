"""Finding flagfiles by bare name: the current folder first, then those that the package ships."""

from importlib.util import find_spec
from pathlib import Path

from cobla_tf.errors import ConfigError

OPTIONS = ("--flagfile", "-flagfile")
EXPERIMENTS = "cobla_tf.experiments"


def resolve_flagfiles(argv: list[str]) -> list[str]:
    """Replace every flagfile's bare name by the path where it lies, and let all other flags come behind it.

    absl takes the last of two values, so that a flag before a flagfile would give way to it.

    Args:
        argv: a command line; `--flagfile=NAME`, `--flagfile NAME` and the one-dash forms are recognised up to `--`.

    Returns:
        The command line with each NAME replaced: a name without a folder is looked up in the current folder, then among
        the flagfiles that the package ships; a name with one is taken as it is. Flagfiles come first, behind argv[0].

    Raises:
        ConfigError: a flagfile that is nowhere.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    files, others = [], []
    for before, argument in zip(["", *argv], argv[:end], strict=False):
        if before in OPTIONS:
            files.append(_locate(argument))
        elif argument.partition("=")[0] in OPTIONS:
            files.append(_resolve(argument))
        else:
            others.append(argument)
    return others[:1] + files + others[1:] + argv[end:]


def packaged_flagfiles() -> dict[str, Path]:
    """The flagfiles that come with the package, by name."""
    return {path.name: path for folder in _experiment_folders() for path in sorted(folder.glob("*.flags"))}


def _resolve(argument: str) -> str:
    option, _, name = argument.partition("=")
    return f"{option}={_locate(name)}" if name else argument


def _locate(name: str) -> str:
    if Path(name).is_file():
        return name
    if Path(name).name != name:
        raise ConfigError(f"Flagfile {name!r} is not a file: check the path; {_choice()}.")
    packaged = packaged_flagfiles()
    if name not in packaged:
        raise ConfigError(f"Flagfile {name!r} is neither in the current folder nor among the package's; {_choice()}.")
    return str(packaged[name])


def _choice() -> str:
    names = sorted(packaged_flagfiles()) + sorted(path.name for path in Path().glob("*.flags"))
    return f"by bare name there are {', '.join(names)}" if names else "by bare name there are none"


def _experiment_folders() -> list[Path]:
    """Where the package's flagfiles lie: as installed, or beside the package in a checkout."""
    spec = find_spec(EXPERIMENTS)
    if spec is not None and spec.submodule_search_locations:
        return [Path(location) for location in spec.submodule_search_locations]
    return [Path(__file__).resolve().parent.parent / "experiments"]
