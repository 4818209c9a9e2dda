"""The one exception that is meant for a person."""


class UserError(ValueError):
    """Something a person can put right. The message is one clear line: what is wrong (with the value), and the way out.

    The command line prints it without a traceback and exits with 2; Python callers may catch it as a `ValueError`.
    """
