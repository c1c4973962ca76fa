import pytest
from thin import MODELS, build
from torch import nn


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Every line of the table, one after another."""
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """The thin model of that line, in fp64 and evaluation mode."""
    return build(name)
