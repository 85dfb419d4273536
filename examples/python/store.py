"""What must survive a crash of this program: which refund belongs to which order, and how far the
event stream has been read. A shop keeps both in its database."""

import json
import os
import uuid


class Store:
    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError:
            content = {}
        self._refunds: dict[str, str] = content.get("refunds", {})
        # Not on disk before save.
        self.last_sequence: int = content.get("last_sequence", 0)

    def refund_id(self, order: str) -> str:
        """The order's refund id. A new one is on disk before it is returned."""
        if order not in self._refunds:
            self._refunds[order] = str(uuid.uuid4())
            self.save()
        return self._refunds[order]

    def save(self) -> None:
        """A new file replaces the old one at once, so that a crash leaves one of the two."""
        with open(f"{self._path}.new", "w", encoding="utf-8") as file:
            json.dump({"refunds": self._refunds, "last_sequence": self.last_sequence}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self._path)
        folder = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
