"""The OpenAPI document is true: requests made from it, good and bad, are answered as it says (schemathesis)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from support.relay import Relay
from support.restfuzz import NOTHING, Site, a_site

#: `./dev fuzz` asks for more examples, and for others each time.
EXAMPLES = int(os.environ.get("MEP_FUZZ_EXAMPLES", "0"))
TRUTH = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def site(relay: Relay) -> Iterator[Site]:
    with a_site(relay) as made:
        yield made


@pytest.mark.timeout(3600 if EXAMPLES else 120)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
def test_every_route_keeps_to_the_openapi_document(site: Site, mode: GenerationMode) -> None:
    """Good requests are accepted, others refused; status, content type and content are those of the document."""
    document = copy.deepcopy(site.document)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)  # who calls is decided here
    tried, faults = 0, dict[str, str]()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {site.relay.token('alice@example.org')}"
        for result in openapi.from_dict(document).get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and (not operation.body or "oauth2" in operation.path):
                continue  # no body that could be wrong: a form's fields are all texts
            judges = [*TRUTH, *_verdict(operation, mode)]
            for case in _examples(operation, mode):
                tried += 1
                _with_real_ids(case, site)
                _judge(case, case.call(base_url=site.relay.url, session=session), judges, faults)
    assert not faults, "\n\n".join(faults.values())
    assert tried > 50


def _verdict(operation: Any, mode: GenerationMode) -> list[Any]:
    """Return the checks of what is taken and refused. A login's rules are more than a schema says."""
    if "oauth2" in operation.path:
        return []
    good = mode is GenerationMode.POSITIVE
    return [checks.positive_data_acceptance if good else checks.negative_data_rejection]


def _examples(operation: Any, mode: GenerationMode) -> list[Case[Any]]:
    """Return requests for one route, the same ones each time."""
    made: list[Case[Any]] = []

    @settings(
        max_examples=EXAMPLES or 8,
        phases=[Phase.generate],
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def make(case: Case[Any]) -> None:
        made.append(case)

    make()
    return made


def _with_real_ids(case: Case[Any], site: Site) -> None:
    for name in case.path_parameters or {}:
        ends = case.method == "DELETE" or case.path.endswith("lock")
        case.path_parameters[name] = NOTHING if ends else site.real()[name]


def _judge(case: Case[Any], answer: Any, judges: list[Any], faults: dict[str, str]) -> None:
    try:
        case.validate_response(answer, checks=judges)
    except BaseException as error:
        if not isinstance(error, AssertionError | BaseExceptionGroup):
            raise
        faults.setdefault(
            f"{case.method} {case.path} {type(error).__name__}", f"{case.method} {case.path}: {error}"
        )
