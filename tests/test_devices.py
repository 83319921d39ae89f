"""What a run says of the machine it runs on."""

import sys

import jax
import pytest

from training import devices
from utils.errors import UserError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in ('CUDA_VISIBLE_DEVICES', 'JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(devices, 'DEVICE_FILES', str(tmp_path / 'dev'))


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


@pytest.mark.parametrize('where', ['file', 'nvidia-smi'])
def test_a_gpu_that_jax_does_not_use_is_warned_of(tmp_path, monkeypatch, caplog, where):
    devices.warn_of_unused_gpu()
    if where == 'file':
        (tmp_path / 'dev').mkdir()
        (tmp_path / 'dev' / 'nvidiactl').touch()
        devices.warn_of_unused_gpu()
        assert not caplog.messages
        (tmp_path / 'dev' / 'nvidia0').touch()
    else:
        command = tmp_path / 'nvidia-smi'
        command.write_text('#!/bin/sh\necho "GPU 0: NVIDIA H100"\n')
        command.chmod(0o755)
    assert not caplog.messages
    devices.warn_of_unused_gpu()
    (message,) = caplog.messages
    assert len(message.splitlines()) == 1
    assert f'{sys.executable} -m pip install "jax[cuda13]=={jax.__version__}"' in message
    for name, value in (('CUDA_VISIBLE_DEVICES', ''), ('JAX_PLATFORMS', 'cpu')):
        monkeypatch.setenv(name, value)
        devices.warn_of_unused_gpu()
        monkeypatch.delenv(name)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    devices.warn_of_unused_gpu()
    assert len(caplog.messages) == 1


def test_a_driver_without_a_gpu_is_no_gpu(tmp_path, caplog):
    command = tmp_path / 'nvidia-smi'
    command.write_text('#!/bin/sh\necho "No devices were found"\nexit 6\n')
    command.chmod(0o755)
    devices.warn_of_unused_gpu()
    assert not caplog.messages


def test_a_platform_that_is_not_installed_is_named_with_what_to_do(monkeypatch):
    def local_devices():
        raise AssertionError  # as JAX 0.10 does without the plugin

    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    monkeypatch.setattr(jax, 'local_devices', local_devices)
    with pytest.raises(UserError, match=r'^JAX_PLATFORMS=cuda: .*not installed.*JAX_PLATFORMS=cpu'):
        devices.describe_machine()
