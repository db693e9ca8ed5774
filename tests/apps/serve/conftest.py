"""A tiny pipeline of random weights, and services of it on free ports, each in its own thread."""

import contextlib
import io
import socket
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from alitok.apps.serve.app import create_app  # noqa: E402
from alitok.apps.serve.guard import bounded_connection  # noqa: E402
from alitok.apps.serve.model import ServedModel  # noqa: E402
from alitok.apps.serve.options import AccessKey, ServeOptions, ServiceLimits  # noqa: E402
from alitok.apps.serve.service import PAGE, Service  # noqa: E402
from alitok.generator import Generator, GeneratorConfig  # noqa: E402
from alitok.sampling import SamplingConfig  # noqa: E402
from alitok.sampling.engine import Engine  # noqa: E402
from alitok.sampling.pipeline import Pipeline  # noqa: E402
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig  # noqa: E402

from .page_browser import open_browser  # noqa: E402

NAMES = ["tench", "golden retriever", "7", "cup"]
PAGE_NAMES = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "cock", "hen", "ostrich"]


def make_pipeline(grid, names):
    torch.manual_seed(0)
    tokenizer = TokenizerConfig(
        image_size=4 * grid,
        patch_size=4,
        codebook_size=32,
        code_width=4,
        encoder=EncoderConfig(width=16, layers=1, heads=2),
        stage1=DecoderConfig(width=16, layers=1, heads=2, causal=True, extra_tokens=1, prefix_head=True),
        stage2=DecoderConfig(width=16, layers=1, heads=2, extra_tokens=2),
    )
    generator = GeneratorConfig(
        grid=grid, prefix=grid, codebook_size=32, classes=len(names), layers=1, width=16, heads=2
    )
    models = Tokenizer(tokenizer).eval(), Generator(generator, names).eval()
    for model in models:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return with_plain_engine(Pipeline(*models, SamplingConfig(guidance_scale=2.0)))


def with_plain_engine(pipeline):
    """Kernels that are chosen by their time may round differently from start to start."""
    pipeline.__dict__["engine"] = Engine(pipeline.generator, kernel="plain")
    return pipeline


@pytest.fixture(scope="session")
def pipeline():
    return make_pipeline(3, NAMES)


@pytest.fixture(scope="session")
def page_pipeline():
    return make_pipeline(4, PAGE_NAMES)


@pytest.fixture(scope="session")
def model_directory(pipeline, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(directory)
    return directory


class Running:
    """A running service."""

    def __init__(self, app, address):
        self.app, self.address = app, address
        self.service = app.state.service

    def client(self, **options):
        return httpx.Client(base_url=self.address, timeout=30, **options)


def served(pipeline):
    """A model whose engine is its own."""
    fresh = Pipeline(pipeline.tokenizer, pipeline.generator, pipeline.sampling)
    return ServedModel("tiny", with_plain_engine(fresh))


@contextlib.contextmanager
def serving(pipeline, *, gate=None, key=None, page=PAGE, limits=None, host="0.0.0.0", **options):
    """A service in a thread; the event `gate` blocks each step of its engine until it is set."""
    options = ServeOptions(limits=ServiceLimits(**limits or {}), host=host, **options)
    model = served(pipeline)
    if gate is not None:
        block_engine(model.pipeline.engine, gate)
    app = create_app(Service(model, options, key=None if key is None else AccessKey(key), page=page))
    http = bounded_connection(options.limits.unread_seconds)
    config = uvicorn.Config(app, http=http, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        wait_for(lambda: server.started)
        running = Running(app, f"http://127.0.0.1:{taken.getsockname()[1]}")
        running.server = server
        try:
            yield running
        finally:
            if gate is not None:
                gate.set()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def block_engine(engine, gate):
    """Let the engine yield a row of codes only while the gate is open."""
    stream = engine.stream

    def slow(requests):
        for codes in stream(requests):
            assert gate.wait(60)
            yield codes

    engine.stream = slow


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def running(pipeline):
    """One service for all tests that do not change it."""
    with serving(pipeline) as service:
        yield service


@pytest.fixture
def http(running):
    with running.client() as client:
        yield client


def image_bytes(width=20, height=16, kind="PNG", mode="RGB", seed=0, **options):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def make_service():
    return serving


@pytest.fixture(scope="session")
def make_image():
    return image_bytes


@pytest.fixture(scope="session")
def until():
    return wait_for
