"""What can go wrong, by who has to act. Nothing here prints or exits; the command line does that."""


class ToolError(Exception):
    """The work failed: the message names the thing, the value and the way out. Exit code 1."""


class BadInput(ToolError):
    """The input or an option cannot be used as given. Exit code 2."""
