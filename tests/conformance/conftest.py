import pytest
from thin import MODELS, build, prepared
from torch import nn


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Every line of the table, one after another."""
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """The thin model of that line, in fp64 and evaluation mode."""
    return build(name)


@pytest.fixture(params=["as it is", "prepared"])
def decoder(request: pytest.FixtureRequest, name: str) -> nn.Module:
    """The same for what decodes: also in fp32 as it is prepared for that."""
    return prepared(name) if request.param == "prepared" else build(name)
