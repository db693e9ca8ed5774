import pytest


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(["golden retriever", "tench", "7"])
