"""What the server does with the aggregate."""

import pytest
import torch

from benchmark.federation import ServerSGD


def test_a_server_with_momentum():
    server, one = ServerSGD(lambda t: -0.1 * t, 0.5, 1.0), torch.ones(2)
    assert server.rate(3) == pytest.approx(-0.3) and server.state_rows == 1
    move, state = server.step(one, None)
    assert move.tolist() == [1.0, 1.0]
    move, state = server.step(one, state)
    assert move.tolist() == [1.5, 1.5]
    assert ServerSGD(lambda t: 1.0).step(one, None) == (one, None)
