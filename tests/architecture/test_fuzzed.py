"""Whatever decodes what comes from elsewhere is fuzzed: a new decoder without a fuzz target is red."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from support.fuzz import TARGETS
from support.source import Module, modules

#: What turns bytes or text into values, as it is written at the place where it is used.
PRIMITIVES = re.compile(
    r"(msgspec\.)?(json|msgpack)\.(Decoder|decode|loads?)|msgspec\.convert|jwt\.decode|jwt\.get_unverified_header"
    r"|base64\.\w*decode|parse_qsl?|yaml\.\w*load\w*|\w+\.model_validate|(dill|pickle)\.\w*loads?|tomllib\.loads?"
    r"|struct\.unpack\w*|_[A-Z]+\.unpack\w*|[A-Z_]+HEAD\.unpack\w*|ast\.literal_eval"
)
#: Functions that are decoders by their name, in rooms that face a network or another privilege.
NAMES = re.compile(r"(decode|parse|load|read|unpack)(_\w+)?|receive|verify|open|is_vouched_for|error_of")
ROOMS = ("wire", "config", "identity")

#: Decodes, and needs no target of its own: why.
UNFUZZED: dict[str, str] = {
    # of our own making, and nobody else's to write
    "daemon/start.py:_outcome": "the daemon's own words, over a pipe that only it has",
    "priv/warden.py:run_and_sweep": "the words of a child of our own, over a pipe that only it has",
    "daemon/gate.py:Gate._on_reregister": "the monitor's own words, behind an fd",
    "wire/launch.py:decode": "the monitor's own words, behind an fd",
    "engines/workermain.py:_decode_call": "the user endpoint's own words to its worker: both are the same user",
    "engines/ear.py:Ear._read": "a worker's words to its user endpoint: both are the same user",
    "engines/workermain.py:_serve": "as above",
    "engines/workerlink.py:WorkerLink._read_head": "lengths, capped; both sides are the same user",
    "relay/auth/grants.py:Grants.jwks": "the relay's own key",
    "relay/auth/grants.py:Grants._code": "what the relay stored itself; as a form it is fuzzed (login form)",
    "relay/commands.py:start_command": "the relay's own store",
    "relay/dispatch.py:_unparked": "the relay's own store",
    "relay/store/endpoints.py:_endpoint": "the relay's own store",
    "relay/store/functions.py:find": "the relay's own store",
    "relay/store/tasks.py:unpublished_task_ids": "the relay's own store",
    "relay/submit.py:Submitter.publish_again": "the relay's own store",
    "relay/rabbit.py:PrivateRabbit._end_stale": "the relay's own file: see test_rabbitfiles",
    "relay/rabbitfiles.py:NodeFiles.ports": "the relay's own file: see test_rabbitfiles",
    "relay/brokeradmin.py:BrokerAdmin._call_now": "the relay's own broker",
    "relay/routes/documented.py:schema_of": "a schema that was just written",
    "relay/routes/submit.py:_answer": "the relay's own answer",
    "sdk/submitter.py:Submitter._submit": "the caller's own arguments",
    "cli/render.py:sample_options": "a value that was just written",
    # the kernel's
    "daemon/controlserver.py:ControlServer._on_connect": "the kernel's own structure (SO_PEERCRED)",
    "daemon/childchannel.py:ChildChannel.unheard": "the kernel's own number",
}


def _sites(module: Module) -> Iterator[str]:
    """Yield "path:scope" of every decoder in a module."""
    path = module.name.removeprefix("src/mep/")

    def walk(node: ast.AST, scope: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{scope}.{child.name}" if scope else child.name
                if not isinstance(child, ast.ClassDef) and module.room in ROOMS and NAMES.fullmatch(child.name):
                    yield f"{path}:{inner}"
            elif isinstance(child, ast.Assign | ast.AnnAssign) and not scope:
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                inner = ast.unparse(target)
            if isinstance(child, ast.Call | ast.Attribute) and PRIMITIVES.fullmatch(_called(child)):
                yield f"{path}:{scope or 'module'}"
            yield from walk(child, inner)

    yield from walk(module.tree, "")


def _called(node: ast.expr) -> str:
    """Return the dotted name of what is called or taken, "" where it is more than a name."""
    parts: list[str] = []
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif parts:
            return ""
        else:
            node = node.func
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


@cache
def _found() -> set[str]:
    return {site for module in modules("src") for site in _sites(module)}


def test_every_decoder_has_a_fuzz_target() -> None:
    covered = {decoder for target in TARGETS for decoder in target.decoders}
    missing = sorted(_found() - covered - set(UNFUZZED))
    assert not missing, "\n".join(["fuzz these (tests/support/fuzz), or say in UNFUZZED why not:", *missing])


def test_the_list_of_decoders_is_up_to_date() -> None:
    found = _found()
    stale = sorted(set(UNFUZZED) - found)
    assert not stale, f"these decode nothing any more: {stale}"
    defined = {
        f"{module.name.removeprefix('src/mep/')}:{name}" for module in modules("src") for name in _names(module)
    }
    gone = sorted({d for t in TARGETS for d in t.decoders} - found - defined)
    assert not gone, f"targets name what is not there: {gone}"


def _names(module: Module) -> Iterator[str]:
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_every_target_has_its_name_and_something_to_begin_with() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    assert [target.name for target in TARGETS if not target.seeds] == []
