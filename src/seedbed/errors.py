"""Every error seedbed raises on purpose; each message is one line: what is wrong, where, what to do."""


class SeedbedError(Exception):
    """Base of all errors that seedbed raises on purpose."""


class BadInput(SeedbedError, ValueError):
    """An argument, prompt or tensor that cannot be used."""


class NotSupported(SeedbedError):
    """A model or pipeline that cannot do what was asked."""


class BadRecord(SeedbedError):
    """A saved file that is damaged, foreign, or of another schema."""


class BadOutput(SeedbedError):
    """The model returned values that are not finite."""
