"""A stage as a function of its configuration: `distill(DistillConfig(...))`, or of the configuration's fields:
`distill(data=["data"], output="runs/selfkd")`. Names, defaults and documentation are those of the dataclass."""

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_args, get_origin, overload

from selfkd.errors import InputError, did_you_mean

P = ParamSpec("P")
ConfigT = TypeVar("ConfigT")
ConfigT_contra = TypeVar("ConfigT_contra", contravariant=True)
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class StageFunction(Protocol[P, ConfigT_contra, ResultT_co]):
    __name__: str

    @overload
    def __call__(self, config: ConfigT_contra, /, *args: Any, **options: Any) -> ResultT_co: ...

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResultT_co: ...


def stage_function(
    config_class: Callable[P, ConfigT],
) -> Callable[[Callable[..., ResultT]], StageFunction[P, ConfigT, ResultT]]:
    """Lets a function of a `config_class` (a dataclass) take the fields of that class as its arguments too."""

    def decorate(run: Callable[..., ResultT]) -> StageFunction[P, ConfigT, ResultT]:
        @wraps(run)
        def stage(*args: Any, **kwargs: Any) -> ResultT:
            if args and isinstance(args[0], cast(type, config_class)):
                return run(*args, **kwargs)
            return run(_config_of_fields(cast(type, config_class), run.__name__, args, kwargs))

        result = inspect.signature(run).return_annotation
        stage.__signature__ = inspect.signature(config_class).replace(return_annotation=result)  # type: ignore[attr-defined]
        stage.__doc__ = f"{run.__doc__}\n\n{config_class.__doc__}"
        return cast("StageFunction[P, ConfigT, ResultT]", stage)

    return decorate


def _config_of_fields(config_class: type, stage: str, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """The configuration of these fields; raises InputError that names an unknown, missing or repeated field."""
    known = {field.name: field for field in fields(config_class)}
    if len(args) > len(known):
        raise InputError(f"{stage}: {len(args)} arguments, and it has {len(known)} fields")
    values = dict(zip(known, args, strict=False))
    if twice := sorted(values.keys() & given.keys()):
        raise InputError(f"{twice[0]}: given twice to {stage}")
    values |= given
    if unknown := sorted(values.keys() - known.keys()):
        raise InputError(
            f"{unknown[0]}: not a field of {stage}{did_you_mean(unknown[0], known) or ';'} it has {', '.join(known)}"
        )
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise InputError(f"{missing[0]}: missing; {stage} needs {', '.join(required)}")
    return config_class(**{name: _converted(known[name].type, value) for name, value in values.items()})


def _converted(field_type: Any, value: Any) -> Any:
    """Text where a field takes a path, paths where it takes text, and any sequence of them where it takes a list."""
    if field_type is Path and isinstance(value, str):
        return Path(value)
    if field_type is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if get_origin(field_type) is list and isinstance(value, list | tuple):
        return [_converted(get_args(field_type)[0], item) for item in value]
    return value
