"""Where `alitok demo` writes, whatever the data is called."""

from pathlib import Path

import pytest

import alitok.cli.demo as command


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("digits", "demo"),
        ("photos", "demo-photos"),
        ("images/", "demo-images"),
        ("pics/x.parquet?label=k", "demo-x.parquet"),
        ("shards/*.tar", "demo-tar"),
        ("hub:somebody/some images", "demo-some_images"),
    ],
)
def test_the_folders_name_is_safe(monkeypatch, data, wanted):
    requested = []
    monkeypatch.setattr("alitok.run.fit.run_fit", lambda source, options, **more: requested.append(options.out))
    command.demo(data=data)
    assert requested == [Path("runs", wanted)]
