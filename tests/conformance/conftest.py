import sys
from pathlib import Path

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from thin import MODELS, build


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Every line of the table, one after another."""
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """The thin model of that line, in fp64 and evaluation mode."""
    return build(name)
