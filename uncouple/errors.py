def shown(text: str) -> str:
    """A text as a terminal may have it: what is not printed stands there by its number.

    A terminal takes what follows an escape character for an order: to write into the clipboard, say, or over what it
    shows. And one character can turn the others around. Models, answers and files' names are others'.
    """
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UncoupleError(Exception):
    """A fault in what the user gave: the message names the file, key or row, and what to do.

    The command prints it as one line, without a traceback, and ends with exit status 1.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class SpoiltFile(UncoupleError):
    """A file of ours that is not as it was written, of another format version, or in the place of another.

    By hand that is an error as others are; in a workflow the file is put aside besides, see `commands.main`.
    """
