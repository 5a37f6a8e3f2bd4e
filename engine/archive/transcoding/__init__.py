"""Other transfer syntaxes on the way out: decoding, in processes of its own."""
