"""Positions of conversations that go on from the cache; what is said there is in the matrix."""

from __future__ import annotations

import pytest
import torch

import framefusion
from framefusion import FrameFusion
from tests.hf import models, oracle
from tests.hf.conversation import Conversation


@pytest.mark.parametrize("name", models.BUILDERS)
def test_positions_of_a_later_turn_are_those_of_the_plain_model(name: str) -> None:
    case = models.build(name)
    conversation = Conversation(case)
    with oracle.recorded_rotary(case.model) as expected:
        conversation.run()
    with oracle.recorded_rotary(case.model) as rotary, framefusion.attach(case.model, FrameFusion(keep={0: 0.3})):
        conversation.run()
    torch.testing.assert_close(rotary, expected, atol=0, rtol=0)
