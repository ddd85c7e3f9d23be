"""What can go wrong, by who has to act. Nothing here prints or exits; `command` does that."""


class ToolError(Exception):
    """The work failed: the message names the thing, the value and the way out."""

    code, is_error = 1, True


class BadInput(ToolError):
    """The input or an option cannot be used as given."""

    code = 2


class Stopped(ToolError):
    """A signal ended the run; the message says how to go on."""

    code, is_error = 130, False
