"""`alitok serve` as a user starts it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest

from alitok.apps.serve.client import Client
from alitok.apps.serve.options import ServeOptions
from alitok.apps.serve.run import run_serve
from alitok.core.errors import AlitokError

COMMAND = [sys.executable, "-c", "from alitok.cli import main; main()", "serve"]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def metrics(address):
    with urlopen(f"{address}/metrics") as answer:
        return answer.read().decode()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_starts_responds_and_stops(model_directory, tmp_path, until, number, status):
    key = tmp_path / "key"
    key.write_text("correct-horse\n")
    process = start(model_directory, "--port", 0, "--key-file", key, "--batch-size", 2)
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving tiny at http://127.0.0.1:"), line + process.stderr.read()
        client = Client(line.split()[3], key="correct-horse")
        assert client.models()[0]["classes"][0] == "tench"
        generated = []
        thread = threading.Thread(target=lambda: generated.extend(client.generate([0], count=64)))
        thread.start()
        until(lambda: "running_images 2.0" in metrics(line.split()[3]), 60)
        process.send_signal(number)
        thread.join(60)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output, errors) == (status, "Stopped.\n", "")
    assert len(generated) == 64  # what was running, and what waited behind it


def test_a_port_that_is_taken_and_other_mistakes(model_directory, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def message(model=model_directory, **options):
        with pytest.raises(AlitokError) as error:
            run_serve(str(model), ServeOptions(**options))
        return str(error.value)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert message(port=port) == (
            f"Cannot listen on port {port} of 127.0.0.1: address already in use. Choose another with --port."
        )
    assert "A port must be 0 to 65535" in message(port=70_000)
    assert "Unknown address no.such.host.invalid" in message(host="no.such.host.invalid")
    assert "is not a run directory" in message(port=0, run=tmp_path / "none")
    assert "batch_size must be at least 1" in message(port=0, batch_size=0)
    assert "no such file" in message(port=0, key_file=tmp_path / "none")
    (tmp_path / "short").write_text("short")
    assert "A key must be 8 to 256" in message(port=0, key_file=tmp_path / "short")
    assert "saved model; check the path" in message(tmp_path / "none", port=0)
    assert signal.getsignal(signal.SIGINT) is before  # a background process ignores it


_LOADING = """
import os, sys, time
import torch
from alitok.apps.serve import model, server
from alitok.apps.serve.options import ServeOptions

torch.set_num_threads(2)
model.ServedModel.warm_up = lambda self, batch_size: torch.ones(4_000_000).exp()  # enough for two threads
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
server.load_app(sys.argv[1], ServeOptions(), None)
until = time.monotonic() + 10
while count() > before and time.monotonic() < until:
    time.sleep(0.01)
loaded = count()
torch.ones(4_000_000).exp()
print(before, loaded, count())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_loading_leaves_no_threads_that_would_slow_down_the_batcher(model_directory):
    words = [sys.executable, "-c", _LOADING, str(model_directory)]
    before, loaded, with_a_team = map(int, subprocess.run(words, capture_output=True, check=True).stdout.split())
    assert loaded == before
    assert with_a_team == before + 1  # what the count would have shown


@pytest.mark.slow
def test_mistakes_end_with_a_message_and_status_2(tmp_path):
    process = start(tmp_path / "none", "--port", 0)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert errors == f"alitok: error: {tmp_path / 'none'} is not a directory with a saved model; check the path.\n"
