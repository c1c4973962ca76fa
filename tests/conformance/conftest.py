import pytest
from thin import GENERATING, MODELS, build, prepared
from torch import nn


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Every line of the table, one after another."""
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """The thin model of that line, in fp64 and evaluation mode."""
    return build(name)


@pytest.fixture(params=GENERATING)
def generating(request: pytest.FixtureRequest) -> str:
    """The lines of the table whose models generate."""
    return str(request.param)


@pytest.fixture(params=["as it is", "prepared"])
def decoder(request: pytest.FixtureRequest, generating: str) -> nn.Module:
    """A model that generates: in fp64 as it is, and in fp32 as it is prepared for decoding."""
    return prepared(generating) if request.param == "prepared" else build(generating)
