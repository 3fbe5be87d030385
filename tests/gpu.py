"""For tests that need an NVIDIA GPU (`make test-gpu`); elsewhere they are skipped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


def on_gpu(test: Callable[..., Any]) -> Any:
    """Marks a test `gpu`."""
    missing = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(missing, reason="needs an NVIDIA GPU")(test))
