"""Data: the embedded Scenes, records, and the pipeline that feeds training."""
