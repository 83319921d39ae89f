"""Imported first by the programs: during imports, Ctrl-C ends them at once and silently.

Otherwise Python prints a traceback from the middle of a package.
`command_line.one_line_errors` restores the handler. Output may be lost from here on (`utils.host`).
"""

import signal

from utils.host import settle

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)
settle()
