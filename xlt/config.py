"""The typed configuration: every choice becomes a checked dataclass before anything is loaded.

A choice on the command line (`method=seq_bn`) is a YAML file that names a class by `_target_` and lists its fields. The
class is a dataclass; each field is declared with `setting`, which says what values it takes and whether it belongs to
the identity of a result. `build` turns the one into the other and explains every mistake. `identity` is what of a
component enters fingerprints.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from xlt.errors import UserError, suggest

Component = TypeVar("Component")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    one_of: tuple[Any, ...] | None = None,
    is_name: bool = False,
    identity: bool = True,
    neutral: bool = False,
) -> Any:
    """A dataclass field with the values that it takes.

    Args:
        above, at_least, at_most: bounds of a number, or of each number of a list.
        one_of: the values allowed.
        is_name: the value becomes a part of folder names, so it may hold only letters, digits and `._-`.
        identity: False for what does not change results (labels, machine settings): left out of fingerprints.
        neutral: the field was added after results had been stored; at its default it is left out of fingerprints, so
            that they stay valid.
    """
    metadata = {
        "above": above, "at_least": at_least, "at_most": at_most, "one_of": one_of, "is_name": is_name,
        "identity": identity, "neutral": neutral,
    }  # fmt: skip
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(node: DictConfig | Mapping[str, Any], where: str, expected: type[Component]) -> Component:
    """The component that a configuration node describes.

    Args:
        node: a mapping with `_target_`, the dotted path of a dataclass, and values for its fields.
        where: the path of the node in the configuration, for messages (`method`).
        expected: the class that the component has to be an instance of.

    Raises:
        UserError: an unknown class, an unknown key, a missing value, or a value of the wrong type or out of range.
    """
    if not isinstance(node, Mapping | DictConfig):
        raise UserError(f"{where}={node} is not a choice: choices are the YAML files of the folder {where} and what plugins add.")
    node = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
    target = node.get("_target_")
    if not isinstance(target, str):
        raise UserError(
            f"{where} names no class: a choice is a YAML file with `_target_: package.module.Class` and the fields of "
            f"that class. Found the keys: {', '.join(map(str, node)) or 'none'}."
        )
    values = {key: value for key, value in node.items_ex(resolve=False) if key != "_target_"}
    return build_fields(_find_class(target, where, expected), OmegaConf.create(values, parent=node._get_parent()), where)


def build_fields(component_class: type[Component], node: DictConfig, where: str) -> Component:
    """Like `build` for a node whose class is known from where it stands. A part of it may name a class of its own, derived
    from the one that its field declares."""
    try:
        values = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise _refused(error, where) from error
    return _filled_once(component_class, json.dumps(values), where)


@lru_cache(maxsize=256)
def _filled_once(component_class: type[Component], values: str, where: str) -> Component:
    """The component for values in JSON; the jobs of a sweep have most of theirs in common."""
    return _filled(component_class, component_class, json.loads(values), where)


def _filled(component_class: type[Component], default: Any, values: dict[str, Any], where: str) -> Component:
    """A component from plain values; what they leave out is as in `default`, an instance, or as the class declares it."""
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(component_class)}
    parts = {name: part for name, hint in typing.get_type_hints(component_class).items() if (part := _part_class(hint))}
    usual = {name: _default(fields[name]) if default is component_class else getattr(default, name) for name in parts}
    built = {
        name: _filled_part(part, usual[name], values.get(name, _nothing(usual[name])), f"{prefix}{name}")
        for name, part in parts.items()
        if (values[name] if name in values else usual[name]) not in (None, MISSING, dataclasses.MISSING)
    }
    try:
        schema = OmegaConf.structured(default)
        OmegaConf.set_readonly(schema, None)  # as that of a frozen dataclass is
        for name in built:
            schema.__dict__["_content"].pop(name)
        merged = OmegaConf.merge(schema, {name: value for name, value in values.items() if name not in built})
        own = OmegaConf.to_container(merged, throw_on_missing=True)
    except ConfigKeyError as error:
        raise UserError(f"{prefix}{error.key} is not a setting. {suggest(str(error.key), fields, 'settings here')}") from error
    except OmegaConfBaseException as error:
        raise _refused(error, where) from error
    component = component_class(**own, **built)
    check(component, where)
    return component


def _filled_part(part: type, default: Any, values: Any, where: str) -> Any:
    """A component inside another one, or several by name."""
    if not isinstance(values, dict):
        raise UserError(f"{where}={values} cannot be: settings of its own belong there ({where}.<setting>=<value>).")
    if isinstance(default, dict):
        return {name: _filled_part(part, default.get(name), inner, f"{where}.{name}") for name, inner in values.items()}
    target = values.pop("_target_", None)
    chosen = _find_class(target, where, part) if target else type(default) if isinstance(default, part) else part
    return _filled(chosen, default if type(default) is chosen else chosen, values, where)


def _nothing(default: Any) -> dict[str, Any]:
    """Values that leave a part, or each of several, as it is."""
    return {name: {} for name in default} if isinstance(default, dict) else {}


def _part_class(hint: Any) -> type | None:
    """The dataclass in a field's annotation: `X`, `X | None` or `dict[str, X]`."""
    inside = [hint, *typing.get_args(hint)]
    return next((element for element in inside if dataclasses.is_dataclass(element)), None)


def _refused(error: OmegaConfBaseException, where: str) -> UserError:
    prefix, key = f"{where}." if where else "", str(error.full_key or error.key or "")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{prefix}{key} has no value: give it one on the command line.")
    return UserError(f"{prefix}{key}: {str(error.msg or error).splitlines()[0]}.")


def check(component: Any, where: str) -> None:
    """Hold every field of a dataclass against what its `setting` allows."""
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        path = f"{where}.{field.name}" if where else field.name
        if value is None:
            continue
        limits = field.metadata
        for element in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(element, float) and math.isnan(element):
                raise UserError(f"{path} is not a number.")
            if limits.get("above") is not None and not element > limits["above"]:
                raise UserError(f"{path}={element} is out of range: it has to be above {limits['above']}.")
            if limits.get("at_least") is not None and element < limits["at_least"]:
                raise UserError(f"{path}={element} is out of range: it has to be at least {limits['at_least']}.")
            if limits.get("at_most") is not None and element > limits["at_most"]:
                raise UserError(f"{path}={element} is out of range: it has to be at most {limits['at_most']}.")
            if limits.get("one_of") is not None and element not in limits["one_of"]:
                raise UserError(f"{path}={element} is no choice. {suggest(str(element), map(str, limits['one_of']), 'choices')}")
            if limits.get("is_name"):
                check_name(str(element), path)
    verify = getattr(component, "verify", None)
    if verify is not None:
        verify(where)


def check_name(name: str, where: str) -> str:
    """`name`, if it can be a part of a folder's name and cannot lead out of that folder.

    Raises:
        UserError: it holds other characters than letters, digits, dots, underscores and hyphens.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{where}={name!r} cannot be a name: it becomes a part of folder names, so it has to begin with a letter or "
            "digit and hold nothing but letters, digits, '.', '_' and '-' (at most 64)."
        )
    return name


def identity(component: Any) -> dict[str, Any]:
    """What of a component enters a fingerprint: its class, with its `version` if that is above 1, and the fields that can change
    results, as plain data.

    Raises:
        TypeError: a field holds something without a stable form in JSON.
    """
    result: dict[str, Any] = {"_target_": f"{type(component).__module__}.{type(component).__qualname__}"}
    if (version := getattr(type(component), "version", 1)) != 1:
        result["version"] = version
    hints = typing.get_type_hints(type(component))
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if not field.metadata.get("identity", True):
            continue
        if field.metadata.get("neutral") and value == _default(field):
            continue
        result[field.name] = _plain(value)
        if dataclasses.is_dataclass(value) and type(value) is not type(_default(field)):
            result[field.name]["_target_"] = identity(value)["_target_"]
        elif isinstance(value, Mapping) and (declared := _part_class(hints[field.name])):
            for name, part in value.items():
                if type(part) is not declared:
                    result[field.name][str(name)]["_target_"] = identity(part)["_target_"]
    return result


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if dataclasses.is_dataclass(value):
        return {key: element for key, element in identity(value).items() if key != "_target_"}
    raise TypeError(f"{value!r} has no stable form in a fingerprint")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _find_class(target: str, where: str, expected: type) -> type:
    found = _import_class(target, where)
    if not (dataclasses.is_dataclass(found) and issubclass(found, expected)):
        raise UserError(
            f"{where}._target_={target} does not fit: it has to be a dataclass derived from "
            f"{expected.__module__}.{expected.__qualname__}."
        )
    return found


def _import_class(target: str, where: str) -> type:
    module_name, _, class_name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the module is there, something that it imports is not
        raise UserError(
            f"{where}._target_={target}: there is no module {module_name}. If it belongs to a plugin, install the plugin "
            "in this environment first."
        ) from error
    except (AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={target}: {module_name or 'nothing'} holds no class {class_name}.") from error
