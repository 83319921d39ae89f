"""What a run reports about its machine."""

import sys

import jax
import pytest

from training import devices
from utils.errors import UserError


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['main.py', '--env_name=a b'])
    found = devices.describe_machine()
    assert found['command'] == "main.py '--env_name=a b'"
    assert found['python'].startswith(f'{sys.version_info[0]}.{sys.version_info[1]}.')
    assert found['host']
    assert f'{devices.num_cores()} cores' in found['device']

    class Device:
        device_kind = 'NVIDIA H100'

    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    for number, text in ((1, 'NVIDIA H100'), (4, '4 x NVIDIA H100')):
        monkeypatch.setattr(jax, 'local_devices', lambda number=number: [Device()] * number)
        assert devices.describe_machine()['device'] == text


def test_a_platform_that_is_not_installed_is_named_with_what_to_do(monkeypatch):
    def local_devices():
        raise AssertionError  # as JAX 0.10 does without the plugin

    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    monkeypatch.setattr(jax, 'local_devices', local_devices)
    with pytest.raises(UserError, match=r'^JAX_PLATFORMS=cuda: .*not installed.*JAX_PLATFORMS=cpu'):
        devices.describe_machine()
