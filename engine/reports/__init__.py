"""Papers for security reviews, made from what runs: HIPAA, MDS2, conformance statement, SBOM, cryptography."""
