"""Several replicas at one address: responses, metrics, health and shutdown like the single service."""

import re
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'alitok[serve,ray]'")

from alitok.apps.serve.client import Client, GeneratedImage
from alitok.apps.serve.options import ServeOptions
from alitok.apps.serve.replicas import Replica, resources_per_replica
from alitok.apps.serve.run import run_serve
from alitok.core.errors import AlitokError


def values(address, name):
    """A metric of each replica."""
    with urlopen(f"{address}/metrics") as answer:
        return [float(value) for value in re.findall(rf"(?m)^{name}{{replica=.+}} (\S+)", answer.read().decode())]


@pytest.mark.slow
def test_two_replicas_respond_like_one_service_and_stop_when_their_work_is_done(model_directory, pipeline, until):
    command = [sys.executable, "-c", "from alitok.cli import main; main()", "serve", str(model_directory)]
    command += ["--port", "0", "--replicas", "2", "--device", "cpu", "--batch-size", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving tiny at http://127.0.0.1:"), line + process.stderr.read()
        assert "with 2 replicas" in line
        address = line.split()[3]
        client = Client(address)
        with urlopen(f"{address}/healthz") as answer:
            assert answer.status == 200

        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(lambda seed: client.generate([seed % 4], seed=seed)[0], range(24)))
        for seed, each in enumerate(images):
            wanted = pipeline([seed % 4], seed=seed)[0]
            assert np.array_equal(np.asarray(each.image), np.asarray(wanted)), seed
        streamed = list(client.stream([1], seed=1))
        assert len(streamed) == 4
        assert isinstance(streamed[-1], GeneratedImage)
        assert np.array_equal(np.asarray(streamed[-1].image), np.asarray(images[1].image))
        counted = values(address, "alitok_images_total")
        assert len(counted) == 2
        assert all(counted)
        assert sum(counted) == 25

        left = client.stream([0], count=64)
        next(left)
        left.close()  # frees its places
        until(lambda: not any(values(address, "alitok_waiting") + values(address, "alitok_running_images")), 60)

        generated = []
        thread = threading.Thread(target=lambda: generated.extend(client.generate([0], count=64)))
        thread.start()
        until(lambda: any(values(address, "alitok_running_images")), 60)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output) == (0, "Stopped.\n")
    assert len(generated) == 64


def test_resources_per_replica():
    laptop, server = {"CPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}
    assert resources_per_replica([laptop], 2, None) == (4.0, 0.0)
    assert resources_per_replica([laptop], 3, None) == (2.0, 0.0)
    assert resources_per_replica([{"CPU": 2.0}], 4, 0.0) == (0.5, 0.0)
    assert resources_per_replica([server], 8, None) == (8.0, 1.0)
    assert resources_per_replica([server, server], 16, 1.0) == (8.0, 1.0)
    assert resources_per_replica([server], 16, 0.5) == (4.0, 0.5)
    assert resources_per_replica([laptop, server], 4, None) == (8.0, 1.0)  # all of them on the machine with GPUs
    assert resources_per_replica([{}, laptop], 2, 0.0) == (4.0, 0.0)
    with pytest.raises(AlitokError, match="9 replicas with 1 GPUs each do not fit, as Ray has 8"):
        resources_per_replica([laptop, server], 9, None)
    with pytest.raises(AlitokError, match="1 replica with 1 GPUs each do not fit"):
        resources_per_replica([laptop], 1, 1.0)
    with pytest.raises(AlitokError, match="no CPUs"):
        resources_per_replica([{"GPU": 1.0}], 1, None)


@pytest.mark.parametrize(
    ("accepting", "alive", "healthy"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_a_replica_whose_worker_has_died_is_unhealthy(accepting, alive, healthy):
    replica = Replica()
    batcher = SimpleNamespace(accepting=accepting, alive=alive)
    replica.app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(batcher=batcher)))
    if healthy:
        replica.check_health()
    else:
        with pytest.raises(RuntimeError):
            replica.check_health()
    assert replica.finished() is not alive


def test_mistakes_are_reported_before_ray_starts(model_directory, tmp_path):
    with pytest.raises(AlitokError, match="must be at least 1, not 0"):
        run_serve(str(model_directory), ServeOptions(port=0, replicas=0))
    with pytest.raises(AlitokError, match="is not a directory with a saved model"):
        run_serve(str(tmp_path / "none"), ServeOptions(port=0, replicas=2))
    with pytest.raises(AlitokError, match="require --replicas"):
        run_serve(str(model_directory), ServeOptions(port=0, cluster="auto"))
