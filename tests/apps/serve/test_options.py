"""Limits, accepted hosts and access keys."""

import pytest

from alitok.apps.serve.options import AccessKey, ServeOptions, ServiceLimits
from alitok.core.errors import AlitokError


@pytest.mark.parametrize("key", ["short", "with space", "ümlaut-and-more", "x" * 257, "tab\tbed\tkey"])
def test_invalid_keys(key):
    with pytest.raises(AlitokError, match="A key must be"):
        AccessKey(key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0"),
        (b"\n \n", "holds 0"),
        (b"first-key-is\nsecond-key\n", "holds 2"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_invalid_key_files(tmp_path, content, message):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(AlitokError, match=message):
        AccessKey.from_file(tmp_path / "key")


def test_a_key_is_read_without_its_line_ending(tmp_path):
    (tmp_path / "key").write_text("\n  correct-horse \r\n\n")
    assert AccessKey.from_file(tmp_path / "key").text == "correct-horse"


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, {"localhost", "127.0.0.1", "::1"}),
        ({"allow_hosts": ("Studio.Example",)}, {"localhost", "127.0.0.1", "::1", "studio.example"}),
        ({"host": "0.0.0.0"}, None),
        ({"host": "0.0.0.0", "allow_hosts": ("a.example",)}, {"localhost", "127.0.0.1", "::1", "0.0.0.0", "a.example"}),
    ],
)
def test_accepted_hosts(options, hosts):
    assert ServeOptions(**options).accepted_hosts == hosts


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_images": 0},
        {"deadline_seconds": 0.0},
        {"unread_seconds": 0.0},
        {"stop_seconds": float("inf")},
        {"max_waiting": 63},  # a request of as many images as are allowed would never be taken
    ],
)
def test_invalid_limits(wrong):
    with pytest.raises(AlitokError):
        ServiceLimits(**wrong)


def test_as_many_uploads_as_may_wait():
    assert ServiceLimits(max_waiting=8, max_images=8).max_uploads == 8
