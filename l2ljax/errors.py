"""The error for everything a caller can mend: one line that says what was seen and what to do."""


class InputError(ValueError):
    """Something was given that cannot be right, or cannot be served.

    The message is one line. The scripts print it without a traceback.
    """
