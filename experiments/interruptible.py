"""A program imports this first: until it is ready, Ctrl-C ends it at once and without a word.

From then on it goes on whatever becomes of its output (`utils.host`).

Python's own way is a traceback from the middle of a package, or a package that fails in other ways.
`command_line.one_line_errors` brings it back.
"""

import signal

from utils.host import settle

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)
settle()
