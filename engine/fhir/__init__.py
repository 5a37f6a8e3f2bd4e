"""FHIR resources made of the archive's answers: R4 (4.0.1), and R5 (5.0.0) where it differs. No I/O.

A resource is a dict that JSON encodes as it is. What is unknown is left out: FHIR allows no empty value.
"""
