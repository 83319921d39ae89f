"""The error of a user's mistake, or of a machine that does not give what a run needs."""


class UserError(ValueError):
    """Something that the user can put right.

    The message is one line. It names the thing, its value, and what to do. Programs print it alone,
    without a traceback: that is for bugs.
    """


class NotFinite(UserError):
    """A loss, a parameter, or something that a simulator or policy gave is NaN or infinite."""
