"""Access, limits of bodies, what no response reveals, and the files of the page."""

import socket
import time

import pytest

KEY = "correct-horse-battery"
OPEN = ["/", "/healthz", "/metrics", "/openapi.json"]
KEYED = ["/v1/models", "/v1/run", "/v1/run/images/stage1/x-000001.png", "/v1/nothing"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outer") / "page"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "app.js").write_text("let a;")
    (folder / "parts" / "style.css").write_text("a{}")
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def guarded(pipeline, make_service, page):
    with make_service(pipeline, key=KEY, host="127.0.0.1", page=page, limits={"upload_seconds": 1.0}) as running:
        yield running


def with_key(key, scheme="Bearer"):
    return {"Authorization": f"{scheme} {key}"}


def test_a_key_is_required_on_every_v1_route(guarded):
    with guarded.client() as http:
        for path in KEYED:
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/v1/images", "/v1/images/stream", "/v1/encode", "/v1/decode", "/v1/reconstruct"):
            assert http.post(path, json={}).status_code == 401
        for path in OPEN:
            assert http.get(path).status_code == 200
        wrong = ["x", KEY[:-1], KEY + "x", KEY.upper(), "x" * 5000]
        assert {http.get("/v1/models", headers=with_key(key)).status_code for key in wrong} == {401}
        assert http.get("/v1/models", headers=with_key(KEY, "Basic")).status_code == 401
        assert http.get("/v1/models", headers=with_key(KEY)).status_code == 200
        assert http.get("/v1/models", headers=with_key(KEY, "bearer")).status_code == 200


def test_keys_are_compared_in_constant_time(guarded, monkeypatch):
    compared = []
    monkeypatch.setattr("alitok.apps.serve.options.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert not guarded.service.key.admits(b"Bearer x")
    assert guarded.service.key.admits(b"Bearer " + KEY.encode())
    assert [len(each) for pair in compared for each in pair] == [32] * 4  # of digests, whatever was given


def test_other_hosts_and_other_origins_are_rejected(guarded):
    """A page of another site, or a domain pointed at this machine, must not use the service."""
    with guarded.client() as http:
        headers = with_key(KEY)
        assert http.get("/v1/models", headers={**headers, "Host": "evil.example"}).status_code == 421
        assert http.get("/healthz", headers={**headers, "Host": "localhost:1"}).status_code == 200
        named = {**headers, "Host": "LocalHost:1", "Origin": "http://localhost:1"}
        assert http.get("/v1/models", headers=named).status_code == 200
        for origin in ("http://evil.example", "null", "http://["):
            answer = http.get("/v1/models", headers={**headers, "Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin")
        assert http.get("/v1/models", headers={**headers, "Origin": guarded.address}).status_code == 200


def test_every_response_has_safe_headers(guarded):
    with guarded.client() as http:
        for path in [*OPEN, *KEYED, "/nothing", "/static/app.js"]:
            headers = http.get(path).headers
            policy = headers["content-security-policy"].split("; ")
            assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
            assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} < set(policy)
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "access-control-allow-origin" not in headers


def test_the_page_and_its_files_and_no_others(guarded):
    with guarded.client() as http:
        assert http.get("/").headers["content-type"] == "text/html; charset=utf-8"
        assert http.get("/static/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
        assert http.get("/static/parts/style.css").text == "a{}"
        for name in (
            "../secret.txt",
            "%2e%2e/secret.txt",
            "..%2fsecret.txt",
            "parts/../../secret.txt",
            "parts",
            "",
            "/etc/passwd",
            "%00",
            "x" * 5000,
        ):
            answer = http.get(f"/static/{name}")
            assert answer.status_code == 404, name
            assert "secret" not in answer.text


def raw(running, request, wait=5.0):
    """The service's response to these bytes."""
    host, port = running.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(request)
        found = b""
        while part := connection.recv(65536):
            found += part
            if b"}}" in found:
                break
        return found.decode()


def test_paths_that_clients_normalize(guarded):
    for path in ("/static/../secret.txt", "/static/%2e%2e/%2e%2e/etc/passwd", "/v1/run/images/../../secret.txt"):
        answer = raw(guarded, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert answer.startswith("HTTP/1.1 404"), answer


def test_bodies_are_bounded_in_size_and_time(pipeline, make_service):
    limits = {"max_body_bytes": 100_000, "max_upload_bytes": 50_000, "upload_seconds": 1.0}
    with make_service(pipeline, limits=limits) as running, running.client() as http:
        kind = {"Content-Type": "application/json"}
        for content in (b" " * 3_000_000, iter([b" " * 60_000] * 50)):  # of declared and undeclared length
            answer = http.post("/v1/images", content=content, headers=kind)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        form = http.post("/v1/encode", files={"image": b"x" * 3_000_000})
        assert form.status_code == 413
        began = time.monotonic()
        head = b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        assert raw(running, head + b"99\r\n\r\n{", 20).startswith("HTTP/1.1 408")
        assert time.monotonic() - began > 1
        assert raw(running, head + b"9999999999\r\n\r\n{", 20).startswith("HTTP/1.1 413")


def test_a_client_that_disconnects_during_its_upload_is_counted_once(pipeline, make_service, until):
    with make_service(pipeline) as running:
        counted = running.service.metrics.registry
        host, port = running.address.removeprefix("http://").split(":")
        for path, kind in (("/v1/images", "application/json"), ("/v1/encode", "multipart/form-data; boundary=x")):
            with socket.create_connection((host, int(port))) as connection:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n--x"
                connection.sendall(head.encode())
                time.sleep(0.2)
            labels = {"route": path, "method": "POST", "status": "499"}
            until(lambda labels=labels: counted.get_sample_value("alitok_requests_total", labels))
            assert counted.get_sample_value("alitok_requests_total", labels) == 1
            assert counted.get_sample_value("alitok_requests_total", {**labels, "status": "422"}) is None


def test_an_internal_error_reveals_nothing(pipeline, make_service, make_image, caplog, monkeypatch):
    with make_service(pipeline) as running, running.client() as http:

        def fails(*_):
            raise RuntimeError("/secret/place")

        monkeypatch.setattr("alitok.apps.serve.model.ServedModel.describe", fails)
        monkeypatch.setattr("alitok.apps.serve.model.ServedModel.encode", fails)
        for answer in (http.get("/v1/models"), http.post("/v1/encode", files={"image": make_image()})):
            assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
            message = "The service failed on this request; see its log."
            assert answer.json() == {"error": {"message": message, "code": "internal"}}
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert caplog.text.count("RuntimeError: /secret/place") == 2


def test_unknown_routes_and_methods(http):
    assert http.get("/nothing").json()["error"]["code"] == "not_found"
    answer = http.get("/v1/images")
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["allow"]) == (405, "method", "POST")
    assert http.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_models_health_and_metrics(http, running, until):
    (model,) = http.get("/v1/models").json()["models"]
    shape = {"image_size": 12, "codes": 12, "prefix": 3, "grid": 3, "codebook_size": 32}
    assert model.items() >= {"name": "tiny", "run": False, **shape}.items()
    assert model["classes"] == ["tench", "golden retriever", "7", "cup"]
    assert model["stages"] == ["stage1", "stage2"]
    assert model["sampling"]["guidance_scale"] == 2.0
    assert {"guidance_power", "guidance_schedule", "temperature", "top_k", "top_p"} <= set(model["sampling"])
    assert (model["limits"]["max_images"], model["limits"]["max_upload_bytes"]) == (64, 16 << 20)
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.post("/v1/images", json={"classes": [0]}).status_code == 200
    for _ in range(3):
        http.get("/nothing/at/all")
    until(lambda: running.service.metrics.registry.get_sample_value("alitok_images_total"))
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    assert float(lines['alitok_requests_total{method="POST",route="/v1/images",status="200"}']) >= 1
    assert float(lines['alitok_requests_total{method="GET",route="other",status="404"}']) >= 3
    assert float(lines["alitok_images_total"]) >= 1
    assert "at/all" not in metrics.text
    assert {"alitok_waiting", "alitok_running_images", "process_resident_memory_bytes"} <= set(lines)
