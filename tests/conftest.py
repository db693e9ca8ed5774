"""Shared by all tests: one compute thread, so that parallel runs do not fight; a seed; stores; several processes."""

import base64
import io
import multiprocessing
import os
import re
import socket
import traceback
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.distributed import join
from alitok.data.codes.shards import StoreHead, StoreWriter
from alitok.generator import Generator, GeneratorConfig
from alitok.sampling import SamplingConfig
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

torch.set_num_threads(1)  # for fixtures of whole modules too, which are made before those of a test
# Autograd chooses its threads at its first backward pass; after a fake tensor it would count a GPU, and break in forks.
torch.ones((), requires_grad=True).backward()


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_pipeline():
    """Makes a pipeline of a few thousand random weights; takes class names and fields of the tokenizer's config."""
    return _pipeline


def _pipeline(names=(), classes=3, sampling=None, seed=0, **tokenizer):
    size = {"width": 16, "layers": 1, "heads": 2}
    parts = {
        "encoder": EncoderConfig(**size),
        "stage1": DecoderConfig(**size, causal=True, extra_tokens=1, prefix_head=True),
        "stage2": DecoderConfig(**size, extra_tokens=2),
    }
    shape = {"image_size": 6, "patch_size": 2, "codebook_size": 20, "code_width": 4}
    config = TokenizerConfig(**{**shape, **parts, **tokenizer})
    sequence = {"grid": config.grid, "prefix": config.prefix_length, "codebook_size": config.codebook_size}
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**sequence, **size, classes=classes), names).eval()
    tokenizer = Tokenizer(config).eval()
    for model in (generator, tokenizer):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(tokenizer, generator, sampling or SamplingConfig(guidance_scale=2.0))


@pytest.fixture
def stored():
    """Writes codes (rows, T) and the labels of the rows to a store at a path, which it returns."""
    return _stored


def _stored(path, codes, labels, *, codebook_size, classes, tokenizer="t", crops=1, shard_rows=1 << 15):
    head = StoreHead(
        images=len(codes) // crops,
        length=codes.shape[1],
        codebook_size=codebook_size,
        recipe="",
        crops=tuple(f"crop {number}" for number in range(crops)),
        classes=tuple(classes),
        tokenizer=tokenizer,
        shard_images=max(1, shard_rows // crops),
    )
    writer = StoreWriter(path, head)
    for number in writer.prepare():
        images = head.shard(number)
        rows = slice(images.start * crops, images.stop * crops)
        writer.write(number, codes[rows], labels[rows][::crops], [str(image) for image in images])
    assert writer.finish()
    return path


@pytest.fixture
def together():
    """Calls `work(world)` in several processes that know of one another; returns what each gave, by rank."""
    return _together


def _together(work, size=2):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_member, args=(work, rank, size, port, results)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    failures = [text for ok, text in found.values() if not ok]
    assert not failures, "\n".join(failures)
    return [found[rank][1] for rank in range(size)]


def _member(work, rank, size, port, results):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    try:
        with join("cpu") as world:
            results.put((rank, (True, work(world))))
    except BaseException:
        results.put((rank, (False, traceback.format_exc())))


VOID = {"meta", "img", "path", "use"}


@pytest.fixture
def read():
    """Reads a page's text; fails where what opens does not close."""
    return Page


class Page(HTMLParser):
    """Elements with their attributes, and the text that a reader sees; checks that what opens also closes."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.open, self.text = source, [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID or (tag in {"path", "use"} and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def sheets(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def pixels(self):
        """Of every sheet, (3, h, w) uint8."""
        heads, data = zip(*(sheet["src"].split(",") for sheet in self.sheets()), strict=True)
        assert set(heads) == {"data:image/png;base64"}
        images = [Image.open(io.BytesIO(base64.b64decode(encoded))) for encoded in data]
        return [np.asarray(image).transpose(2, 0, 1) for image in images]

    def check_alone(self):
        """Nothing is fetched or run."""
        assert not re.search(r"https?://|@import|//[a-z]", re.sub(r"base64,[\w+/=]+", "", self.source))
        for tag, attributes in self.elements:
            assert tag not in {"script", "link", "iframe", "object", "base", "form"}
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
                assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))
        for address in re.findall(r"url\(([^)]*)\)", self.source):
            assert address.startswith("#")
