import importlib.util

import pytest

from alitok.core.errors import AlitokError
from alitok.core.extras import require_libraries


def test_what_is_missing_is_named_by_its_package(monkeypatch):
    require_libraries("A test", "dev", "json", "pytest")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("sklearn", "jinja2") else find(name))
    with pytest.raises(AlitokError) as caught:
        require_libraries("A test", "demo", "sklearn", "json", "jinja2")
    assert str(caught.value) == "A test needs scikit-learn, jinja2; install with pip install 'alitok[demo]'."
