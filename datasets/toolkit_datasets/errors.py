"""The one error that a user is meant to read."""


class ToolkitError(Exception):
    """Something the user can mend: the message names the file, the value, the choices and the next step."""
