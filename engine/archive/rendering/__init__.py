"""Pictures of stored instances, drawn in separate processes."""
