"""The settings of a run as flags: those of `RunConfig`, of the suites and of the agent."""

import dataclasses
import typing
from typing import Any

from absl import flags
from ml_collections import config_flags

import envs
from experiments import command_line
from experiments.methods import expand_method
from training import RunConfig

AGENT = 'agents/dfp.py'


class RunFlags:
    """Defines the flags of a run, and makes its config of what they are given.

    Attributes:
        argv: program and flags, flag files read, the method's flags put in.
        agent_path: of the agent's file.
        agent_settings: of the agent, by default.
    """

    def __init__(self, argv: list[str], values: flags.FlagValues = flags.FLAGS):
        """Defines a flag for each setting.

        Args:
            argv: program and flags.
            values: where.

        Raises:
            UserError: there is no such method, agent, setting of the agent, or suite.
        """
        argv = values.read_flags_from_files(argv)
        name = command_line.peek(argv, 'suite')
        suites = [envs.load_suite(name)] if name else envs.suites()
        self._options = [option for suite in suites for option in suite.options]
        command_line.refuse_other_names(argv, [option.name for option in self._options])
        self.argv = expand_method(argv, RunConfig.env_name)
        self.agent_path = command_line.peek(self.argv, 'agent', AGENT)
        self.agent_settings = command_line.agent_settings(self.agent_path)
        command_line.refuse_unknown_settings(self.argv, self.agent_path, self.agent_settings)
        self._values = values
        config_flags.DEFINE_config_file(
            'agent', AGENT, 'The method: a file with get_config().', values, sys_argv=self.argv
        )
        for field in dataclasses.fields(RunConfig):
            if field.metadata:
                self._define(field.name, field.type, field.default, **field.metadata)
        for option in self._options:
            self._define(option.name, option.type, None, option.help, option.choices)

    def _define(self, name, kind, default, help, choices=None, **_) -> None:
        """Defines one flag; `kind` is its type, such as `int` or `str | None`."""
        kind = next(iter(typing.get_args(kind)), kind)
        if choices:
            flags.DEFINE_enum(name, default, choices, help, flag_values=self._values)
        else:
            define = {int: 'integer', str: 'string', float: 'float', bool: 'bool'}[kind]
            getattr(flags, f'DEFINE_{define}')(name, default, help, flag_values=self._values)

    def config(self) -> RunConfig:
        """Returns the run that the flags describe, once they are parsed."""
        values: Any = self._values
        names = [field.name for field in dataclasses.fields(RunConfig) if field.metadata]
        options = [option.name for option in self._options if values[option.name].present]
        return RunConfig(
            agent=values.agent,
            env_options={name: values[name].value for name in options},
            **{name: values[name].value for name in names},
        )

    def help_text(self, doc: str) -> str:
        """Returns what `--help` prints; `doc` is the program's."""
        own = [self._values.main_module_help(), self._values.module_help(__name__)]
        return command_line.help_text(doc, '\n'.join(own), self.agent_path, self.agent_settings)


def parse(argv: list[str]) -> RunConfig:
    """Returns the run that main.py makes of a command line.

    Args:
        argv: program and flags.

    Raises:
        UserError: see `RunFlags`; or an argument is no flag.
        flags.Error: there is no such flag, or it has no such value.
    """
    values = flags.FlagValues()
    run_flags = RunFlags(argv, values)
    command_line.refuse_arguments(values(run_flags.argv))
    return run_flags.config()
