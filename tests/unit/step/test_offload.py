"""States of the optimizer that are on the device of the weights only during its steps."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dapo_lightning.step.offload import with_offloaded_states


def made(weight):
    return torch.optim.AdamW([weight], lr=0.1, foreach=False)


def held(optimizer):
    """Bytes of states on each kind of device."""
    found = {"cuda": 0, "cpu": 0}
    for state in (value for states in optimizer.state.values() for value in states.values()):
        found[state.device.type] += state.nbytes
    return found


def test_states_leave_the_device_between_steps():
    """On a GPU without numbers, so that the test needs none. Counts of steps are 4 bytes, on the CPU in either case."""
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(100, 10, device="cuda"))
        optimizer, during = with_offloaded_states(lambda weights: made(*weights))([weight]), []
        optimizer.register_step_pre_hook(lambda *_: during.append(held(optimizer)))
        for _ in range(2):
            weight.grad = torch.empty_like(weight)
            optimizer.step()
    assert during == [{"cuda": 0, "cpu": 0}, {"cuda": 2 * 4 * 1000, "cpu": 4}]
    assert held(optimizer) == {"cuda": 0, "cpu": 2 * 4 * 1000 + 4}


def test_the_steps_are_the_same_also_after_loading():
    ends = []
    for make in (lambda weights: made(*weights), with_offloaded_states(lambda weights: made(*weights))):
        weight = torch.nn.Parameter(torch.arange(4.0))
        optimizer = make([weight])
        for number in range(4):
            if number == 2:
                saved, optimizer = optimizer.state_dict(), make([weight])
                optimizer.load_state_dict(saved)
            weight.grad = weight.detach().cos()
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)
