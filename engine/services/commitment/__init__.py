"""Storage commitment on the wire (PS3.4 Annex J): requests in, reports out."""
