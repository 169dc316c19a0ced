"""The runs of tests/train."""

from tests.train.conftest import tiny_assets, tiny_records, tiny_run

__all__ = ["tiny_assets", "tiny_records", "tiny_run"]
