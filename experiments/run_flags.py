"""A run's settings as flags: those of `RunConfig`, of the suites and of the agent."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

import envs
from agents import find_file, unknown_setting
from experiments.command_line import refuse_arguments
from experiments.flag_names import OTHER_NAMES
from experiments.methods import make_config
from training import RunConfig
from utils.errors import UserError

FIELDS = [field for field in dataclasses.fields(RunConfig) if field.metadata]
AGENT_HELP = 'Agent in agents/ by name, or path of a file with get_config() and an Agent.'


class _LastTuple(flags.ArgumentParser):
    """Parses a tuple. If a flag is given twice, the last one wins, as with all other flags."""

    def parse(self, argument):
        return tuple_parser.TupleParser().parse(argument)


config_flags.register_flag_parser_for_type(tuple, _LastTuple())


class _Choice(flags.ArgumentParser):
    """Records the values of --agent and --method in their order."""

    def __init__(self, kind: str, choices: list[tuple[str, str]]):
        self._kind, self._choices = kind, choices

    def parse(self, argument):
        self._choices.append((self._kind, argument))
        return argument


def _define(values: flags.FlagValues, name, kind, default, help, choices=None, **_) -> None:
    """Defines one flag; `kind` is its type, such as `int` or `str | None`."""
    kind = next(iter(typing.get_args(kind)), kind)
    if choices:
        flags.DEFINE_enum(name, default, choices, help, flag_values=values)
    else:
        define = {int: 'integer', str: 'string', float: 'float', bool: 'bool'}[kind]
        getattr(flags, f'DEFINE_{define}')(name, default, help, flag_values=values)


def define_options(values: flags.FlagValues, suite: str | None) -> list[envs.Option]:
    """Defines a flag for each option of a suite (default: all registered ones); returns them."""
    suites = [envs.load_suite(suite)] if suite else envs.suites()
    options = [option for suite in suites for option in suite.options]
    for option in options:
        _define(values, option.name, option.type, None, option.help, option.choices)
    return options


def given_options(values: Any, options: Sequence[envs.Option], suite: envs.Suite) -> dict[str, Any]:
    """Returns the options given on the command line for a task of a suite.

    Options of other suites are ignored if they only name folders, because a flag file may have
    them.
    """
    return {
        option.name: values[option.name].value
        for option in options
        if values[option.name].present and (option in suite.options or option.decides_result)
    }


class RunFlags:
    """Defines the flags of a run, parses them, and makes its config."""

    def __init__(self, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS):
        """Defines a flag for each setting.

        Args:
            argv: program and flags; --agent, --method and --suite decide which flags exist.
            values: the flags are defined here.

        Raises:
            UserError: the method, agent or suite is unknown.
            flags.Error: a flag file cannot be read.
        """
        choices: list[tuple[str, str]] = [('agent', RunConfig.agent)]
        first = flags.FlagValues()
        first.set_gnu_getopt()
        for name in ('agent', 'method'):
            flags.DEFINE(_Choice(name, choices), name, None, '', first)
        self._argv = first(argv, known_only=True)
        flags.DEFINE_string('env_name', RunConfig.env_name, '', first)
        flags.DEFINE_string('suite', None, '', first)
        first(self._argv, known_only=True)

        kind, value = choices[-1]  # the last of --agent and --method wins
        self._usual = make_config({kind: value, 'env_name': first.env_name})
        self._values = values
        values.set_gnu_getopt()
        agent = ml_collections.ConfigDict(self._usual.agent)
        everything = ['', *(f'--agent.{name}' for name in agent)]
        config_flags.DEFINE_config_dict('agent', agent, AGENT_HELP, values, sys_argv=everything)
        values['agent'].default_as_str = repr(self._usual.agent_file)
        for field in FIELDS:
            usual = getattr(self._usual, field.name)
            _define(values, field.name, field.type, usual, **field.metadata)
        self._options = define_options(values, first.suite)

    def parse(self, _: Sequence[str] = ()) -> list[str]:
        """Parses the command line; returns the program.

        Raises:
            UserError: a flag is unknown, or an argument is not a flag.
            flags.Error: a flag has an invalid value.
        """
        try:
            rest = self._values(self._argv)
        except flags.UnrecognizedFlagError as error:
            raise UserError(self._explain(error)) from None
        refuse_arguments(rest)
        return rest

    def _explain(self, error: flags.UnrecognizedFlagError) -> str:
        """Returns the error for an unknown flag, with what to use instead."""
        name = error.flagname
        name = name.removeprefix('no') if name.startswith('noagent.') else name
        if name in OTHER_NAMES:
            return f'--{name}: {OTHER_NAMES[name]}'
        if name.startswith('agent.'):
            return unknown_setting(self._usual.agent_file, name.removeprefix('agent.'))
        return str(error)

    def config(self) -> RunConfig:
        """Returns the config from the parsed flags.

        Raises:
            UserError: the environment is unknown.
        """
        values: Any = self._values
        suite = envs.find_task(values.env_name, values.suite).suite
        options = given_options(values, self._options, suite)
        return dataclasses.replace(
            self._usual,
            agent=values.agent,
            env_options=self._usual.env_options | options,
            **{field.name: values[field.name].value for field in FIELDS},
        )

    def help_text(self, doc: str) -> str:
        """Returns the output of `--help`; `doc` is the program's docstring."""
        own = [self._values.main_module_help(), self._values.module_help(__name__)]
        settings = '\n'.join(
            f'  --agent.{name} (default {value!r})' for name, value in self._usual.agent.items()
        )
        own += [f'\nSettings of {find_file(self._usual.agent_file)}:\n{settings}\n']
        return '\n'.join([doc, *own, '--helpfull lists the flags of all modules.'])


def parse(argv: Sequence[str]) -> RunConfig:
    """Returns the config of a command line of main.py.

    Args:
        argv: program and flags.

    Raises:
        UserError, flags.Error: see `RunFlags`.
    """
    run_flags = RunFlags(argv, flags.FlagValues())
    run_flags.parse()
    return run_flags.config()
