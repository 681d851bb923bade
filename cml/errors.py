"""The exceptions of cml: each message is one sentence that says what is wrong and what to do."""


class CmlError(Exception):
    """Base of every error that cml raises on purpose."""


class CodecError(CmlError):
    """A codec cannot take this signal, this option or this name."""


class BitstreamError(CmlError):
    """Bytes that are not what an encoder wrote: cut, changed, or of another format."""


class DataError(CmlError):
    """A data set or a file is missing, empty or unreadable."""
