"""Pictures of stored instances, made in processes of their own."""
