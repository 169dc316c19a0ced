"""A file that cannot go back, as a pipe."""

import io


class Pipe(io.BytesIO):
    """Cannot go back, so that lengths are written behind the members, as torch does."""

    def seekable(self) -> bool:
        """No."""
        return False

    def seek(self, *_: int) -> int:
        """Impossible."""
        raise io.UnsupportedOperation

    def tell(self) -> int:
        """Impossible."""
        raise io.UnsupportedOperation
