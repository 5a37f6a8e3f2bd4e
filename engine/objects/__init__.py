"""The archive in an object store: a client, the format of the bucket, checks of the store."""
