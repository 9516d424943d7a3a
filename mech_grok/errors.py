"""The exceptions that a user's mistake raises."""


class UserError(Exception):
    """A mistake in what the user gave: one line that says what is wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class RunBusyError(UserError):
    """Another process is writing the run."""
