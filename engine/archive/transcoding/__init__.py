"""Conversion to other transfer syntaxes for sending, with codecs in separate processes."""
