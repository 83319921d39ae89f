"""What a run says of the machine it runs on."""

import sys

import jax

from training import devices


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
