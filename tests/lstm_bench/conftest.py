"""Workers that misbehave to order."""

from __future__ import annotations

from pathlib import Path

import pytest
from lstm_bench import measure, remote


@pytest.fixture
def fakes(monkeypatch):
    """Workers come from fake_boot.py, and samples may be as short as a call."""
    monkeypatch.setattr(remote, "_BOOT", Path(__file__).with_name("fake_boot.py"))
    monkeypatch.setattr(measure, "MIN_SAMPLE_S", 1e-6)
    monkeypatch.setattr(measure, "MAX_ROUNDS", 4)
