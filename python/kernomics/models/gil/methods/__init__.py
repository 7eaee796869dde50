"""Methods against forgetting, one small file each; see `base` for how to add one."""

from __future__ import annotations

from collections.abc import Sequence

from kernomics._arguments import check_fields, shown
from kernomics.errors import ConfigError, closest
from kernomics.models.gil.methods.adapters import Adapters
from kernomics.models.gil.methods.base import Method, Situation, Step
from kernomics.models.gil.methods.der import DER
from kernomics.models.gil.methods.distillation import Distillation
from kernomics.models.gil.methods.ewc import EWC
from kernomics.models.gil.methods.features import Features
from kernomics.models.gil.methods.freezing import Freezing
from kernomics.models.gil.methods.ghosts import Ghosts
from kernomics.models.gil.methods.joint import Joint
from kernomics.models.gil.methods.naive import Naive
from kernomics.models.gil.methods.replay import Replay

__all__ = [
    "DER",
    "EWC",
    "METHODS",
    "Adapters",
    "Distillation",
    "Features",
    "Freezing",
    "Ghosts",
    "Joint",
    "Method",
    "Naive",
    "Replay",
    "Situation",
    "Step",
    "as_methods",
]

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (Naive, Joint, Freezing, Adapters, Replay, Distillation, DER, Features, Ghosts, EWC)
}
"""By name."""


def as_methods(given: str | Method | Sequence[str | Method]) -> list[Method]:
    """Return methods that were named or made, one or a list of those that go together."""
    found = [_as_method(one) for one in ([given] if isinstance(given, str | Method) else given)]
    if not found:
        raise ConfigError(f"no method is named; there are {', '.join(METHODS)}")
    names = [method.name for method in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"method {name!r} is named {names.count(name)} times: once will do")
    mixing = [method.name for method in found if type(method).replayed is not Method.replayed]
    if len(mixing) > 1:
        raise ConfigError(
            f"methods {' and '.join(mixing)} mix cells into the batches: one of them can"
        )
    if len(found) > 1:
        for method in found:
            if method.alone:
                others = ", ".join(repr(name) for name in names if name != method.name)
                why = (
                    ", and there is no previous model when all stages are trained at once"
                    if method.name == "joint" and any(one.needs_previous for one in found)
                    else ""
                )
                raise ConfigError(
                    f"method {method.name!r} is combined with {others}: it stands alone{why}"
                )
            for name in names:
                if name in method.refuses:
                    raise ConfigError(
                        f"method {method.name!r} is combined with {name!r}, which does nothing "
                        f"there: {method.refuses[name]}; leave one of them out"
                    )
    return found


def _as_method(given: str | Method) -> Method:
    if isinstance(given, Method):
        check_fields(given)
        return given
    if not isinstance(given, str):
        raise ConfigError(
            f"method is {shown(given)}: a name or a Method, or a list of them, is needed"
        )
    if given not in METHODS:
        raise ConfigError(f"there is no method {given!r}; {closest(given, METHODS)}")
    return METHODS[given]()
