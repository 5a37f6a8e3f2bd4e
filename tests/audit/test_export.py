"""What is exported can be verified by a program that knows no more than the help of the command says."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from engine.audit.chain import chain_files, folder_of
from engine.audit.export import export
from tests.audit.recording import make_log, rewrite


class Verifier:
    """Reads an export."""

    def __init__(self, data: Path) -> None:
        key = load_pem_public_key((folder_of(data) / "verify-key.pem").read_bytes())
        assert isinstance(key, Ed25519PublicKey)
        self._key = key
        self.hashes: dict[str, bytes] = {}
        self.records: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.signed = 0
        self.known: set[tuple[str, int, str]] = set()
        """Chain, number and hash of records."""

    def read(self, lines: list[bytes]) -> Verifier:
        for line in lines:
            place, proof, content = line.split(b" ", 2)
            if place == b"checkpoints":
                self._check_signature(base64.b64decode(proof), content)
            else:
                self._check_hash(place.decode(), proof.decode(), content)
        return self

    def _check_hash(self, chain: str, proof: str, content: bytes) -> None:
        record = json.loads(content)
        if "before" in record:
            first = hashlib.sha256(f"filmroom audit chain {chain}".encode()).hexdigest()
            if record["before"] == 1 and proof != first:
                self.faults.append(f"{chain} begins with another hash")
            self.hashes[chain] = bytes.fromhex(proof)
            return
        before = self.hashes.get(chain)
        if before is not None and hashlib.sha256(before + content).hexdigest() != proof:
            self.faults.append(f"{chain} {record['n']}")
        self.hashes[chain] = bytes.fromhex(proof)
        self.records.append(record)
        self.known.add((chain, record["n"], proof))

    def _check_signature(self, signature: bytes, content: bytes) -> None:
        try:
            self._key.verify(signature, content)
        except InvalidSignature:
            self.faults.append("a signature")
        for chain, (number, proof) in json.loads(content)["chains"].items():
            if (chain, number, proof) not in self.known:
                self.faults.append(f"what was signed of {chain} is not there")
        self.signed += 1


def test_every_hash_and_signature_of_an_export_is_right(tmp_path: Path) -> None:
    make_log(tmp_path)
    verifier = Verifier(tmp_path).read(list(export(tmp_path)))
    assert (verifier.faults, len(verifier.records), verifier.signed) == ([], 9, 2)
    assert len(verifier.hashes) == 2


def test_a_changed_record_is_found_in_the_export(tmp_path: Path) -> None:
    make_log(tmp_path)
    rewrite(tmp_path, "000", lambda lines: [lines[0], lines[1].replace(b"DOE^JANE", b"DOE^JOHN"), *lines[2:]])
    assert "000 2" in Verifier(tmp_path).read(list(export(tmp_path))).faults


@pytest.mark.parametrize("has_start", [True, False])
def test_a_part_of_a_time_begins_with_the_hash_before_it(tmp_path: Path, has_start: bool) -> None:
    make_log(tmp_path)
    everything = Verifier(tmp_path).read(list(export(tmp_path)))
    times = sorted(record["t"] for record in everything.records)
    since, until = (times[3], times[7]) if has_start else ("", times[5])
    lines = [line for line in export(tmp_path, since, until) if not line.startswith(b"checkpoints")]
    part = Verifier(tmp_path).read(lines)
    assert [record["t"] for record in part.records if not since <= record["t"] < until] == []
    assert len(part.records) == (4 if has_start else 5)
    chains = {line.split(b" ")[0] for line in lines}
    assert part.faults == [] and sum(b'{"before":' in line for line in lines) == len(chains)


def test_a_chain_whose_beginning_was_removed_begins_without_the_hash_before(tmp_path: Path) -> None:
    make_log(tmp_path)
    for path in chain_files(tmp_path, "000"):
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
    lines = [line for line in export(tmp_path) if line.startswith(b"000 ")]
    assert b'"n":2,' in lines[0] and not any(b'{"before":' in line for line in lines)
    assert Verifier(tmp_path).read(lines).faults == []
