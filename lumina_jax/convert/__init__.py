"""Released weights into the project's tree: readers, layout tables, loaders."""
