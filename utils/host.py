"""What a process may lack where it runs: a reader of its output, UTF-8, a home directory."""

import io
import os
import sys
import tempfile


class _Output(io.FileIO):
    """Standard output or error; once it cannot be written, `os.devnull` takes its place."""

    def write(self, data, /):
        try:
            return super().write(data)
        except OSError:  # nobody reads the pipe, the terminal is closed, the disk is full
            with open(os.devnull, 'wb') as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return super().write(data)


def settle() -> None:
    """Lets this process, and those it starts, go on without what it may lack.

    Output that nobody reads is dropped; what its encoding does not have is written as escapes.
    Streams that are closed become `os.devnull`, so that no file gets their numbers. Without a home
    directory, a folder for temporary files stands in. May be called again.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, 'r+' if number else 'r', encoding='utf-8')  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
        elif number and stream is getattr(sys, f'__{name}__'):  # no notebook's, or test's
            stream.flush()
            raw: io.RawIOBase = _Output(number, 'w', closefd=False)
            direct = stream.write_through
            stream = io.TextIOWrapper(
                raw if direct else io.BufferedWriter(raw),
                stream.encoding,
                'backslashreplace',
                line_buffering=stream.line_buffering,
                write_through=direct,
            )
        setattr(sys, name, stream)
    if os.path.expanduser('~') == '~':  # neither HOME nor an entry of the user
        os.environ['HOME'] = home = f'{tempfile.gettempdir()}/home-{os.getuid()}'
        print(f'There is no home directory; {home} stands in for it.', file=sys.stderr)
