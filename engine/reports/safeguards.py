"""What protects this server now: one judgement for each safeguard, which the papers name by clause or by question."""

from __future__ import annotations

from typing import Final

from engine import tls
from engine.access.networks import is_loopback
from engine.access.role_settings import BUILT_IN_ROLES
from engine.reports.evidence import Evidence, State, judged
from engine.reports.facts import Facts

BACKUP_AGE_DAYS_MAX: Final = 7.0
"""An older backup is no plan that is carried out."""
VERIFIED_AGE_DAYS_MAX: Final = 92.0
"""A verification a quarter."""

_DAY_S: Final = 86400.0


def roles_in_force(facts: Facts) -> Evidence:
    """Whether everybody may do only what their role allows."""
    config = facts.config
    if config.http.enabled and not facts.needs_login:
        return Evidence(State.NOT_MET, _OPEN_HTTP)
    if config.accept_unknown_peers is True:
        return Evidence(
            State.NOT_MET, "AE titles without a [[peer]] may store, query and retrieve (accept_unknown_peers)."
        )
    unbound = [peer.aet for peer in config.peers if not peer.is_bound]
    if unbound:
        return Evidence(
            State.PARTLY,
            f"{len(config.peers)} peers are configured; these are bound neither to a certificate nor to a network, so"
            f" that anybody may use their title: {', '.join(unbound[:20])}.",
            _ACCESS_TESTS,
        )
    return Evidence(State.MET, "Peers are bound, and everybody has a role; others are refused.", _ACCESS_TESTS)


def people_authenticated(facts: Facts) -> Evidence:
    """Whether each person has a name and proves it."""
    config = facts.config
    if not config.http.enabled:
        return Evidence(State.MET, "HTTP is off: people use this server by the account of the operating system only.")
    if not facts.needs_login:
        return Evidence(State.NOT_MET, _OPEN_HTTP)
    enabled = [user for user in facts.users if not user.is_disabled]
    strong = sum(bool(user.totp_secret or user.passkeys) for user in enabled)
    text = (
        f"Every request over HTTP needs a session, a key or a token (http.login = {config.http.login}). {len(enabled)}"
        f" users have names of their own, {strong} of them a second factor here; {len(config.oidc)} identity providers"
        " vouch for others."
    )
    return Evidence(State.MET, text, _LOGIN_TESTS)


def passwords_managed(facts: Facts) -> Evidence:
    """Whether passwords are hard to guess and kept safe."""
    people = people_authenticated(facts)
    if people.state is not State.MET or not facts.config.http.enabled:
        return people
    text = (
        f"A password has at least {facts.config.accounts.password_length_min} characters and is none that everybody"
        " tries; it is kept as an argon2id hash, wrong ones are slowed down, and the first one must be changed."
    )
    tests = (
        "tests/web/test_api_accounts.py::test_a_thousand_wrong_passwords_slow_down_only_who_tries_them",
        "tests/web/test_api_accounts.py::test_a_user_with_a_first_password_may_do_nothing_before_it_is_changed",
    )
    return Evidence(State.MET, text, tests)


def access_ended(facts: Facts) -> Evidence:
    """Whether somebody who leaves has no access from then on."""
    people = people_authenticated(facts)
    if people.state is not State.MET:
        return people
    text = (
        "A user who is disabled or removed loses every session, key and grant at the next request. Do it when they go."
    )
    return Evidence(State.MET, text, _LOGIN_TESTS[1:2])


def emergency_access(facts: Facts) -> Evidence:
    """Whether somebody can see what they otherwise may not, with a reason, for some hours."""
    people = people_authenticated(facts)
    if people.state is not State.MET or not facts.config.http.enabled:
        return people
    in_force = {role.name: role for role in (*BUILT_IN_ROLES, *facts.config.roles)}.values()
    roles = [role.name for role in in_force if "break-glass" in role.may]
    return judged(
        bool(roles),
        f"Users with the role {' or '.join(roles)} open a study with a reason, for some hours; somebody reviews it.",
        "No role may break-glass.",
        ("tests/web/test_api_accounts.py::test_an_emergency_access_needs_a_reason_ends_and_is_reviewed",),
    )


def peers_authenticated(facts: Facts) -> Evidence:
    """Whether each application entity proves who it is."""
    config = facts.config
    plain = not is_loopback(config.host)
    if config.tls.enabled and config.tls.client_certificates == "required" and not plain:
        return Evidence(State.MET, "Every peer shows a certificate that tls.trust verifies.", _TLS_TESTS)
    if config.accept_unknown_peers is False and not config.peers:
        return Evidence(State.MET, "No peer is configured, and nobody else is accepted.", _ACCESS_TESTS[:1])
    bound = [peer.aet for peer in config.peers if peer.is_bound]
    if config.accept_unknown_peers is True or not bound:
        return Evidence(State.NOT_MET, "A calling AE title is a name that anybody may use; no peer is bound to more.")
    return Evidence(
        State.PARTLY,
        f"{len(bound)} of {len(config.peers)} peers are bound to a certificate or a network; DICOM without TLS is"
        f" open on {config.host}:{config.dicom_port}.",
        _TLS_TESTS,
    )


def sessions_end(facts: Facts) -> Evidence:
    """Whether an unused session ends."""
    accounts, people = facts.config.accounts, people_authenticated(facts)
    if people.state is not State.MET:
        return people
    return Evidence(
        State.MET,
        f"A session ends after {accounts.session_idle_s / 60:g} minutes without a request, and after"
        f" {accounts.session_s / 3600:g} hours; an association"
        f" after {facts.config.limits.idle_timeout_s / 60:g} minutes.",
        ("tests/web/test_api_session.py::test_a_session_ends_when_nobody_uses_it_and_at_its_end",),
    )


def encrypted_on_the_way(facts: Facts) -> Evidence:
    """Whether nothing is sent or received in the clear."""
    config = facts.config
    open_ = []
    if not is_loopback(config.host):
        open_.append(f"DICOM without TLS on {config.host}:{config.dicom_port}")
    if config.http.enabled and not is_loopback(config.http.host) and config.http.plain:
        open_.append(f"HTTP without TLS on {config.http.host}:{config.http.port}")
    if config.tls.profile == "legacy":
        open_.append("the TLS profile legacy")
    open_ += [f"{peer.aet} is called without TLS" for peer in config.peers if peer.host and peer.tls == "off"][:20]
    suites = tls.cipher_suites(config.tls.profile)
    served = f"DICOM over TLS, profile {config.tls.profile} with {len(suites)} suites." if config.tls.enabled else ""
    if not open_:
        return Evidence(
            State.MET, f"{served} Nothing is served or called in the clear beyond this machine.".strip(), _TLS_TESTS
        )
    state = State.PARTLY if config.tls.enabled else State.NOT_MET
    return Evidence(state, f"{served} Open: {'; '.join(open_)}.".strip(), _TLS_TESTS if config.tls.enabled else ())


def encrypted_at_rest(facts: Facts) -> Evidence:
    """Whether a stolen disk tells nothing. Never wholly met by us alone: the index is readable."""
    status = facts.encryption
    if not status.get("is_encrypted"):
        return Evidence(
            State.NOT_MET,
            "Records and index are readable on the disk (`filmroom encryption init`, or an encrypted disk).",
        )
    kinds = [wrapping["kind"] for wrapping in status["wrappings"]]
    open_ = [f"{status['plain_records']} records are not encrypted"] if status["plain_records"] else []
    open_ += [] if status["encrypts_new_records"] else ["new records are not encrypted"]
    open_ += ["there is no second wrapping of the master key"] if len(kinds) < 2 else []
    open_ += ["the index must be on an encrypted disk (LUKS), which the operator sees to"]
    text = (
        f"Records are encrypted with AES-256-GCM by {len(status['data_keys'])} data keys; the master key is wrapped by"
        f" {', '.join(kinds)}. Open: {'; '.join(open_)}."
    )
    return Evidence(State.PARTLY, text, _ENCRYPTION_TESTS)


def audit_kept(facts: Facts) -> Evidence:
    """Whether it is recorded who did what with whose data, and whether the record is whole."""
    audit, report = facts.config.audit, facts.audit
    if not audit.enabled:
        return Evidence(State.NOT_MET, "No audit is kept (audit.enabled).")
    collector = (
        f"sent to {audit.collector} over {audit.transport}"
        if audit.collector
        else "sent to no collector (audit.collector)"
    )
    text = f"A hash-chained log with signed checkpoints, kept for {audit.keep_days} days, {collector}."
    if report is None:
        return Evidence(State.MET, f"{text} Verify it with `filmroom audit verify`.", _AUDIT_TESTS)
    if not report.is_whole:
        return Evidence(
            State.NOT_MET, f"{text} It is damaged: {report.problems_count} problems (`filmroom audit verify`)."
        )
    return Evidence(State.MET, f"{text} Verified now: {report.events} events, nothing changed.", _AUDIT_TESTS)


def log_in_monitored(facts: Facts) -> Evidence:
    """Whether failed attempts are seen: with an audit, and with somebody to log in."""
    kept = audit_kept(facts)
    return kept if kept.state is not State.MET else Evidence(people_authenticated(facts).state, kept.text, kept.tests)


def review_possible(facts: Facts) -> Evidence:
    """Whether somebody can look at what happened; that they do is the operator's part."""
    kept = audit_kept(facts)
    return Evidence(
        State.OPERATOR if kept.state is State.MET else State.NOT_MET,
        f"{kept.text} Somebody must look at it." if kept.state is State.MET else kept.text,
        kept.tests,
    )


def integrity_verified(facts: Facts) -> Evidence:
    """Whether changed bytes are found, and whether there are any."""
    scrub, damage = facts.scrub, len(facts.damage)
    when = (scrub.get("last_pass") or {}).get("ended") or "no pass has ended yet"
    cycle = f"every {facts.config.scrub.cycle_days:g} days" if facts.config.scrub.cycle_days else "only by request"
    text = (
        "Every record has a checksum, and what is sent is compared with it. All stored bytes are read again"
        f" {cycle}; last: {when}. Damage known now: {damage}."
    )
    tests = (
        "tests/archive/lifecycle/test_scrub.py::test_any_byte_of_a_record_that_turns_is_found",
        "tests/faults/test_torn_tail.py::test_a_tail_torn_at_every_length",
        "tests/faults/test_power_cut_fuse.py::test_every_acknowledged_instance_survives_every_power_cut",
    )
    state = State.NOT_MET if damage else State.MET if facts.config.scrub.cycle_days else State.PARTLY
    return Evidence(state, text, tests)


def backups_taken(facts: Facts) -> Evidence:
    """Whether there is a backup that is not old."""
    if not facts.backups:
        return Evidence(State.NOT_MET, "No backup has been made (`filmroom backup`).")
    newest = facts.backups[0]
    days = newest["age_s"] / _DAY_S
    text = f"The newest backup is in {newest['destination']}, from {newest['taken']}, {days:.1f} days old."
    return Evidence(State.MET if days <= BACKUP_AGE_DAYS_MAX else State.NOT_MET, text, _BACKUP_TESTS)


def backups_verified(facts: Facts) -> Evidence:
    """Whether a backup has been read again."""
    verified = [backup for backup in facts.backups if backup["verified"]]
    if not verified:
        return Evidence(State.NOT_MET, "No backup has been read again (`filmroom verify-backup`), and none restored.")
    newest = min(verified, key=lambda backup: backup["verified_age_s"])
    days = newest["verified_age_s"] / _DAY_S
    text = (
        f"Every byte of the backup in {newest['destination']} was read again {newest['verified']}, {days:.1f} days ago."
        " Restore one to show how long it takes."
    )
    return Evidence(State.MET if days <= VERIFIED_AGE_DAYS_MAX else State.NOT_MET, text, _BACKUP_TESTS)


def copies_elsewhere(facts: Facts) -> Evidence:
    """Whether the archive outlives this machine."""
    replicas = [str(each.get("destination", each.get("target", ""))) for each in facts.replications]
    if replicas:
        tests = ("tests/archive/test_replica.py::test_a_promoted_replica_is_an_archive_of_its_own",)
        return Evidence(State.MET, f"Replicas: {', '.join(replicas)}.", tests)
    return backups_taken(facts)


_OPEN_HTTP: Final = (
    "Whoever reaches the HTTP port from an allowed address may do everything (http.allow); nobody logs in."
)
_ACCESS_TESTS: Final = (
    "tests/access/test_policy.py::test_unknown_titles_are_accepted_from_this_machine_only_by_default",
    "tests/access/test_roles.py::test_changes_act_at_the_next_question",
    "tests/access/test_roles.py::test_the_role_of_a_peer_narrows_its_actions_and_studies",
)
_TLS_TESTS: Final = (
    "tests/system/test_tls.py::test_a_peer_without_a_valid_certificate_is_refused",
    "tests/system/test_tls.py::test_the_certificate_of_another_peer_is_rejected_with_a_security_alert",
    "tests/system/test_tls.py::test_nothing_is_sent_to_a_destination_with_another_certificate",
    "tests/system/test_tls.py::test_an_old_version_of_tls_is_refused",
    "tests/system/test_tls.py::test_a_suite_that_the_profile_does_not_have_is_refused",
)
_AUDIT_TESTS: Final = (
    "tests/audit/test_verify.py::test_a_change_is_found_where_it_is",
    "tests/audit/test_recorder.py::test_what_was_begun_is_on_the_disk",
    "tests/audit/test_recorder.py::test_a_disk_that_refuses_stops_disclosures_and_loses_nothing_else",
)
_ENCRYPTION_TESTS: Final = (
    "tests/archive/test_encryption.py::test_names_and_texts_are_readable_in_the_index_only",
    "tests/archive/test_encryption.py::test_a_backup_holds_ciphertext_and_wrapped_keys_is_checked_without_a_key_and_restores_with_one",
    "tests/archive/test_encryption.py::test_without_the_right_key_a_start_fails_and_writes_nothing",
)
_LOGIN_TESTS: Final = (
    "tests/web/test_api_session.py::test_what_has_data_needs_a_login_and_the_pages_files_and_health_do_not",
    "tests/web/test_api_session.py::test_a_session_ends_at_once_when_it_is_revoked_or_its_user_disabled_or_removed",
    "tests/web/test_api_session.py::test_a_request_that_another_page_caused_changes_nothing",
)
_BACKUP_TESTS: Final = (
    "tests/system/test_backup.py::test_everything_acknowledged_before_a_backup_is_in_the_restored_archive",
    "tests/archive/test_backup.py::test_every_flipped_byte_is_found_by_verification_and_by_a_restore",
)
