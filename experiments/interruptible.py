"""Programs import this first, so that Ctrl-C during their imports ends them at once and silently.

Otherwise Python would print a traceback from inside some package. `command_line.one_line_errors`
restores the handler. From here on, unread output is dropped without an error (`utils.host`).
"""

import signal

from utils.host import settle

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)
settle()
