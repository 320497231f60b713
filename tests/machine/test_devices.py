"""How a job sets up torch for a GPU, on a machine that has none."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from lplgrad.machine.devices import set_up
from lplgrad.study.settings import Compute


def test_deterministic_mode_neither_fills_new_memory_nor_imports_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", Mock(side_effect=AssertionError("imports the compiler")))
    before = torch.get_deterministic_debug_mode()
    try:
        for deterministic in (False, True):
            assert set_up(Compute(deterministic=deterministic)).type == "cuda"
            assert torch.get_deterministic_debug_mode() == 2 * deterministic
        memory = torch.empty(1000)
        assert not memory.isnan().all(), "new memory is filled"
    finally:
        torch.set_deterministic_debug_mode(before)
