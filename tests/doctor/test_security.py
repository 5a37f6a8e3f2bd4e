"""filmroom doctor --security: each thing that is open or about to end is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import certificates
from engine.config import Config, Http, Peer, Tls
from engine.doctor import security
from engine.doctor.finding import Finding, Verdict


def findings(config: Config) -> list[Finding]:
    return list(security.examine(config))


def problems(config: Config) -> list[str]:
    return [finding.what for finding in findings(config) if finding.verdict is not Verdict.GOOD]


def certificate_findings(config: Config) -> list[Finding]:
    return [finding for finding in findings(config) if finding.subject.startswith("certificate")]


CLOSED = {"host": "127.0.0.1", "accept_unknown_peers": False}


def test_a_closed_server_has_no_problem() -> None:
    assert problems(Config(**CLOSED)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "DICOM without TLS is open"),
        ({"accept_unknown_peers": True}, "whoever reaches the DICOM port may store"),
        ({"peers": (Peer(aet="CT1"),)}, "whoever uses the title of these peers is taken for them: CT1"),
        ({"http": Http(host="0.0.0.0")}, "http.host is 0.0.0.0"),
        ({"http": Http(host="0.0.0.0", plain=True)}, "HTTP without TLS is open"),
        ({"http": Http(allow=("10.0.0.0/8",))}, "HTTP clients of 10.0.0.0/8 may do everything without a login"),
        ({"tls": Tls(profile="legacy")}, "the TLS profile legacy"),
        ({"peers": (Peer(aet="CT1", tls="required"),)}, "must be called over TLS, but tls.trust is empty"),
    ],
)
def test_what_is_open_is_named(settings: dict[str, object], words: str) -> None:
    (problem,) = problems(Config(**{**CLOSED, **settings}))  # type: ignore[arg-type]
    assert problem.startswith(words)


@pytest.mark.parametrize(("days", "verdict"), [(825, Verdict.GOOD), (29, Verdict.WARNING), (-2, Verdict.FAULT)])
def test_the_end_of_a_certificate_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, verdict: Verdict
) -> None:
    certificates.make_authority(tmp_path, "A hospital")
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", days)
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", certificates.timedelta(days=3))
    path = certificates.issue(tmp_path, "pacs", ())
    tls = Tls(certificates=(path,), trust=(tmp_path / "ca.pem",), crls=(tmp_path / "ca.crl",))
    found = certificate_findings(Config(**CLOSED, tls=tls))  # type: ignore[arg-type]
    assert {finding.subject.split()[1]: finding.verdict for finding in found} == {
        "ca.pem": Verdict.GOOD,
        "ca.crl": Verdict.GOOD,
        "pacs.pem": verdict,
    }


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    (finding,) = certificate_findings(Config(**CLOSED, tls=Tls(certificates=(tmp_path / "x.pem",))))  # type: ignore[arg-type]
    assert finding.verdict is Verdict.FAULT and "x.pem" in finding.what
