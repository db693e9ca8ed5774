"""The OpenAPI document, and random requests generated from it."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS as CHECKS_KNOWN
from schemathesis.checks import load_all_checks

from alitok.apps.serve import schemas

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
ROUTES = {
    "/healthz": {"get"},
    "/metrics": {"get"},
    "/v1/models": {"get"},
    "/v1/images": {"post"},
    "/v1/images/stream": {"post"},
    "/v1/reconstruct": {"post"},
    "/v1/encode": {"post"},
    "/v1/decode": {"post"},
    "/v1/run": {"get"},
    "/v1/run/images/{stage}/{name}": {"get"},
}


@pytest.fixture(scope="module")
def document(running):
    with running.client() as http:
        return http.get("/openapi.json").json()


def test_every_route_is_documented_with_its_errors(document):
    assert {path: set(methods) for path, methods in document["paths"].items()} == ROUTES
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["summary"], path
            assert {"403", "421", "500"} <= set(route["responses"])
            for status, answer in route["responses"].items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorResponse")
            if "post" in methods:
                assert {"401", "413", "415", "422", "429", "503", "504"} <= set(route["responses"])


def test_the_key_is_documented_where_it_is_required(document):
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route.get("security", []) == ([{"key": []}] if path.startswith("/v1/") else [])
            assert ("401" in route["responses"]) == path.startswith("/v1/")


def test_any_authorization_header_is_accepted_without_a_key(http):
    for value in ("", "Basic x", "Bearer", "Bearer x y"):
        assert http.get("/v1/models", headers={"Authorization": value}).status_code == 200


def test_requests_and_responses_have_examples(document, http):
    components = document["components"]["schemas"]
    named = [name for name in components if name.endswith(("Request", "Response")) and name != "HealthResponse"]
    assert len(named) == 9
    for name in named:
        for example in components[name]["examples"]:
            getattr(schemas, name).model_validate(example)
    assert "the example is for a model with six" in components["DecodeRequest"]["properties"]["codes"]["description"]
    assert len(components["DecodeRequest"]["examples"][0]["codes"][0]) == 6
    for example in components["ImagesRequest"]["examples"]:
        assert http.post("/v1/images", json=example).status_code == 200
    stream = document["paths"]["/v1/images/stream"]["post"]["responses"]["200"]["content"]
    assert "event: done" in stream["text/event-stream"]["example"]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ROUTES)
def test_random_requests_get_documented_responses(running, document, path, mode):
    schema = schemathesis.openapi.from_dict(document)
    (method,) = ROUTES[path]
    operation = schema[path][method]
    if mode is schemathesis.GenerationMode.NEGATIVE and method == "get":
        pytest.skip("nothing can be wrong with a request without a body")
    load_all_checks()
    checks, answered = CHECKS_KNOWN.get_by_names(CHECKS), []

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call_and_validate(base_url=running.address, checks=checks, timeout=30)
        answered.append(answer.status_code)

    ask()
    assert answered
    assert max(answered) < 500
