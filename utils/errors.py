"""Errors that a user can fix, such as a wrong setting or a full disk."""


class UserError(ValueError):
    """An error that the user can fix.

    The message is one line that names the thing, its value, and what to do. Programs print it
    without a traceback.
    """


class NotFinite(UserError):
    """A loss, a parameter, or an output of a simulator or policy is NaN or infinite."""
