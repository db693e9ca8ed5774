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

pytest.importorskip("fastapi")

from alitok.apps.serve.client import Client
from alitok.apps.serve.limits import ServiceLimits
from alitok.apps.serve.run import ServeOptions, hosts_of, read_key, run_serve
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
def test_starts_answers_and_stops(model_directory, tmp_path, until, number, status):
    key = tmp_path / "key"
    key.write_text("correct-horse\n")
    process = start(model_directory, "--port", 0, "--key-file", key, "--batch-size", 2)
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving tiny at http://127.0.0.1:"), line + process.stderr.read()
        client = Client(line.split()[3], key="correct-horse")
        assert client.models()[0]["classes"][0] == "tench"
        drawn = []
        asking = threading.Thread(target=lambda: drawn.extend(client.draw([0], count=64)))
        asking.start()
        until(lambda: "running_images 2.0" in metrics(line.split()[3]), 60)
        process.send_signal(number)
        asking.join(60)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said, errors) == (status, "Stopped.\n", "")
    assert len(drawn) == 64  # what was running, and what waited behind it


def test_a_port_that_is_taken_and_other_mistakes(model_directory, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def told(**options):
        with pytest.raises(AlitokError) as error:
            run_serve(ServeOptions(str(model_directory), **options))
        return str(error.value)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert told(port=port) == (
            f"Port {port} of 127.0.0.1 cannot be used: address already in use; choose another with --port."
        )
    assert "A port is a number from 0 to 65535" in told(port=70_000)
    assert "There is no address no.such.host.invalid" in told(host="no.such.host.invalid")
    assert "is no directory of a run" in told(port=0, run=tmp_path / "none")
    assert "batch size must be at least 1" in told(port=0, batch_size=0)
    assert "cannot be read: no such file" in told(port=0, key_file=tmp_path / "none")
    (tmp_path / "short").write_text("short")
    assert "A key must be 8 to 256" in told(port=0, key_file=tmp_path / "short")
    with pytest.raises(AlitokError, match="is no directory with a saved model"):
        run_serve(ServeOptions(str(tmp_path / "none"), port=0))
    assert signal.getsignal(signal.SIGINT) is before  # a process in the background ignores it


_LOADING = """
import os, sys, time
import torch
from alitok.apps.serve import model, run
from alitok.apps.serve.service import ServiceSettings

torch.set_num_threads(2)
model.ServedModel.warm_up = lambda self, batch_size: torch.ones(4_000_000).exp()  # enough for two threads
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
run.load_app(run.ServeOptions(sys.argv[1]), ServiceSettings())
until = time.monotonic() + 10
while count() > before and time.monotonic() < until:
    time.sleep(0.01)
loaded = count()
torch.ones(4_000_000).exp()
print(before, loaded, count())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_loading_leaves_no_threads_that_would_stand_in_the_way_of_the_one_that_draws(model_directory):
    words = [sys.executable, "-c", _LOADING, str(model_directory)]
    before, loaded, with_a_team = map(int, subprocess.run(words, capture_output=True, check=True).stdout.split())
    assert loaded == before
    assert with_a_team == before + 1  # what the count would have shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0"),
        (b"\n \n", "holds 0"),
        (b"first-key-is\nsecond-key\n", "holds 2"),
        (b"\xff\xfe", "it is no text"),
    ],
)
def test_key_files_that_hold_no_key(tmp_path, content, said):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(AlitokError, match=said):
        read_key(tmp_path / "key")


def test_a_key_is_read_without_its_line_end(tmp_path):
    (tmp_path / "key").write_text("\n  correct-horse \r\n\n")
    assert read_key(tmp_path / "key") == "correct-horse"


@pytest.mark.slow
def test_mistakes_end_in_a_sentence_and_status_2(tmp_path):
    process = start(tmp_path / "none", "--port", 0)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "")
    assert errors == f"alitok: {tmp_path / 'none'} is no directory with a saved model; check the path.\n"


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, {"localhost", "127.0.0.1", "::1"}),
        ({"allow_hosts": ("Studio.Example",)}, {"localhost", "127.0.0.1", "::1", "studio.example"}),
        ({"host": "0.0.0.0"}, None),
        ({"host": "0.0.0.0", "allow_hosts": ("a.example",)}, {"localhost", "127.0.0.1", "::1", "0.0.0.0", "a.example"}),
    ],
)
def test_names_that_are_answered(options, hosts):
    assert hosts_of(ServeOptions("model", **options)) == hosts


@pytest.mark.parametrize(
    "wrong",
    [
        {"most_images": 0},
        {"deadline_seconds": 0.0},
        {"unread_seconds": 0.0},
        {"stop_seconds": float("inf")},
        {"most_waiting": 63},  # a request of as many images as are allowed would never be taken
        {"most_waiting": 8, "most_images": 8},
    ],
)
def test_limits_that_let_nothing_through(wrong):
    with pytest.raises(AlitokError):
        ServiceLimits(**wrong)
