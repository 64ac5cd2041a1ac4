"""Template + options -> the YAML of a user endpoint's configuration. Run after the drop, as the user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.template.options import RESERVED, check_plain
from mep.template.quoting import Null, printed, quoted, shell_escape, to_json

MAX_OUTPUT_CHARS: Final = 1024 * 1024
_MAX_REPEATED: Final = 1024 * 1024
_MAX_POWER_BITS: Final = 4096
_UNDEFINED = re.compile(r"'([^']+)' is undefined")

Includes = tuple[tuple[str, str], ...]
#: What Jinja calls the template itself, in tracebacks and errors; its label in messages may differ between calls.
_MAIN: Final = "<main template>"


@dataclass(frozen=True)
class ReservedVariables:
    """What the endpoint tells the template: `_GC.parent_config` and so on, and the bare names of older templates.

    `mapped_identity`: {"local": {uname, uid, gid, gecos, shell, dir, groups}, "globus": {"id"}}. `user_runtime` is
    the user's and is quoted like an option. `env` is the environment of the process that renders.
    """

    parent_config: Mapping[str, Any] = field(default_factory=dict)
    user_runtime: Mapping[str, Any] = field(default_factory=dict)
    mapped_identity: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


class _Environment(SandboxedEnvironment):
    """The sandbox, and no way to blow a small number up into a large text."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if (
                    isinstance(one, str | list | tuple)
                    and isinstance(other, int)
                    and len(one) * other > _MAX_REPEATED
                ):
                    raise SecurityError(f"a repetition gives more than {_MAX_REPEATED} items")
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise SecurityError(f"a power has more than {_MAX_POWER_BITS} bits")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=8)
def _environment(includes: Includes) -> _Environment:
    environment = _Environment(
        undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(dict(includes)), finalize=printed
    )
    environment.filters["shell_escape"] = shell_escape
    environment.policies["json.dumps_function"] = to_json
    environment.tests["none"] = lambda value: value is None or isinstance(value, Null)
    return environment


@lru_cache(maxsize=8)
def _compiled(text: str, includes: Includes) -> jinja2.Template:
    """A daemon compiles before it forks, so that no child has to."""
    environment = _environment(includes)
    code = environment.compile(text, name=_MAIN, filename=_MAIN)
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def render(
    template_text: str,
    *,
    options: Mapping[str, Any],
    reserved: ReservedVariables,
    source: str,
    includes: Mapping[str, str] | None = None,
) -> str:
    """Return the YAML that `template_text` gives for `options`, which `validate_options` has accepted.

    `source` names the template in messages; `includes`: the templates it may include, by name.
    InputError: TEMPLATE_UNDEFINED (an option that the template needs was not given), TEMPLATE_INVALID, OPTIONS_*;
    all name the line.
    """
    check_plain(dict(options), "user_endpoint_config")
    check_plain(dict(reserved.user_runtime), "user_runtime")
    variables = _variables(options, reserved)
    try:
        template = _compiled(template_text, _frozen(includes))
        parts: list[str] = []
        size = 0
        for part in template.generate(variables):
            parts.append(part)
            size += len(part)
            if size > MAX_OUTPUT_CHARS:
                raise _invalid(source, None, f"gives more than {MAX_OUTPUT_CHARS} characters")
    except InputError:
        raise
    except jinja2.UndefinedError as error:
        _undefined(error, source, options)
    except jinja2.TemplateSyntaxError as error:
        raise _invalid(_label(error, source), error.lineno, f"{error.message}") from None
    except jinja2.TemplateNotFound as error:
        raise _invalid(source, _line(error), f"includes {error.name!r}, which is not there") from None
    except Exception as error:  # noqa: BLE001 - a template can raise anything; each is the template's fault
        raise _invalid(source, _line(error), f"{type(error).__name__}: {error}") from None
    return "".join(parts)


def check_template(
    template_text: str, *, source: str, includes: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Return the names of the options that the template mentions.

    InputError(TEMPLATE_INVALID) if it is wrong, or one that it includes.
    """
    try:
        _compiled(template_text, _frozen(includes))
        tree = _environment(_frozen(includes)).parse(template_text)
        _compile_included(tree, includes or {})
    except jinja2.TemplateSyntaxError as error:
        raise _invalid(_label(error, source), error.lineno, f"{error.message}") from None
    except RecursionError:
        raise _invalid(source, None, "is nested too deeply") from None
    return frozenset(meta.find_undeclared_variables(tree) | _set_from_themselves(tree)) - set(RESERVED)


def _compile_included(tree: nodes.Template, includes: Mapping[str, str]) -> None:
    """Compile what it includes by name, directly or not; the environment keeps it. TemplateSyntaxError."""
    environment = _environment(_frozen(includes))
    todo, seen = [tree], set[str]()
    while todo:
        for name in set(meta.find_referenced_templates(todo.pop())) - seen:
            if name is not None and name in includes:  # another may be optional, or is missed when it is rendered
                seen.add(name)
                environment.get_template(name)
                todo.append(environment.parse(includes[name], name))


def _set_from_themselves(tree: nodes.Template) -> set[str]:
    """Find x in `{% set x = x | default(...) %}`: an option, although the template also sets it."""
    return {
        name.name
        for assign in tree.find_all(nodes.Assign)
        if isinstance(assign.target, nodes.Name)
        for name in assign.node.find_all(nodes.Name)
        if name.name == assign.target.name
    }


def _variables(options: Mapping[str, Any], reserved: ReservedVariables) -> dict[str, Any]:
    given = {
        "parent_config": dict(reserved.parent_config),
        "user_runtime": quoted(dict(reserved.user_runtime)),
        "mapped_identity": dict(reserved.mapped_identity),
    }
    for name in RESERVED:
        if name in options:
            raise InputError(Code.OPTIONS_RESERVED, f"user_endpoint_config: {name!r} is set by the endpoint.")
    return (
        {name: quoted(value) for name, value in options.items()}
        | given
        | {"_GC": given | {"env": dict(reserved.env)}}
    )


def _frozen(includes: Mapping[str, str] | None) -> Includes:
    return tuple(sorted((includes or {}).items()))


def _undefined(error: jinja2.UndefinedError, source: str, options: Mapping[str, Any]) -> NoReturn:
    line = _line(error)
    where = source if line is None else f"{source} line {line}"
    match = _UNDEFINED.search(str(error))
    if match is None:
        raise InputError(Code.TEMPLATE_UNDEFINED, f"{where}: {error}.") from None
    near = difflib.get_close_matches(match[1], options, n=1)
    hint = f" You gave {near[0]!r}." if near else ""
    raise InputError(
        Code.TEMPLATE_UNDEFINED, f"{where}: the option {match[1]!r} is needed and was not given.{hint}"
    ) from None


def _label(error: jinja2.TemplateSyntaxError, source: str) -> str:
    """Return the name of the file that is at fault: the template's own label, or an included one's name."""
    return source if error.name in (None, _MAIN) else error.name


def _line(error: BaseException) -> int | None:
    """Return the template's line in which `error` was raised: Jinja rewrites tracebacks to say so."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _MAIN:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _invalid(source: str, line: int | None, what: str) -> InputError:
    where = source if line is None else f"{source} line {line}"
    return InputError(Code.TEMPLATE_INVALID, f"{where}: {what.rstrip('.')}.")
