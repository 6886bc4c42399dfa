class UncoupleError(Exception):
    """A fault in what the user gave: the message names the file, key or row, and what to do.

    The command prints it as one line, without a traceback, and ends with exit status 1.
    """


class SpoiltFile(UncoupleError):
    """A file of ours that is not as it was written, of another format version, or in the place of another.

    By hand that is an error as others are; in a workflow the file is put aside besides, see `commands.main`.
    """
