"""Copes with missing surroundings: no reader of the output, no UTF-8, no home directory."""

import io
import os
import sys
import tempfile


class _Output(io.FileIO):
    """Standard output or error; once writing fails, `os.devnull` replaces it."""

    def write(self, data, /):
        try:
            return super().write(data)
        except OSError:  # nobody reads the pipe, the terminal is closed, the disk is full
            with open(os.devnull, 'wb') as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return super().write(data)


def settle() -> None:
    """Lets this process and its children run without a reader, UTF-8 or a home directory.

    Output that nobody reads is dropped; characters that the encoding lacks become escapes. Closed
    streams become `os.devnull`, so that no other file gets their numbers. A folder for temporary
    files replaces a missing home directory. Calling it again is harmless.
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
    if os.path.expanduser('~') == '~':  # no HOME, and no entry in the user database
        os.environ['HOME'] = home = f'{tempfile.gettempdir()}/home-{os.getuid()}'
        print(f'No home directory; using {home} instead.', file=sys.stderr)
