import importlib.util
import os

import pytest

from alitok.core.errors import AlitokError
from alitok.core.system import cores, require_libraries


def test_cores_are_those_the_process_may_use_or_all_where_nobody_tells(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_what_is_missing_is_named_by_its_package(monkeypatch):
    require_libraries("A test", "dev", "json", "pytest")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("sklearn", "jinja2") else find(name))
    with pytest.raises(AlitokError) as caught:
        require_libraries("A test", "demo", "sklearn", "json", "jinja2")
    assert str(caught.value) == "A test needs scikit-learn, jinja2; install with pip install 'alitok[demo]'."
