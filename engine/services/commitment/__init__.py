"""Storage commitment over DIMSE (PS3.4 Annex J): receives requests and sends reports."""
