"""Permissions: all front ends check them with the same calls.

    access = Policy(config, directory)                      the rules in force
    access.allowed(principal, action, target) ──► Decision  true, or false with the reason
    access.scope(principal, action) ──► Scope               the studies that the action may reach

    principal   the requester: an application entity, a user, a share, a person at the command line, a background job
    action      the operation: store, query, retrieve, send, commit, associate …
    target      its object: everything that is stored, one destination, resources of FHIR of one kind, or the server
    directory   who has which role and which grants now

A decision covers an association or an operation, never one instance: ask once per operation and keep the answer. This
package knows neither DICOM, HTTP nor the archive; each front end words its own refusal. A study that is out of scope is
not found: nobody is told that it exists.
"""

from __future__ import annotations

from engine.access.directory import Directory, NoAccounts
from engine.access.grant import Grant, Holder
from engine.access.policy import Policy
from engine.access.principal import Kind, Principal
from engine.access.question import ARCHIVE, SERVICE, Access, Action, Decision, Destination, Records, Target
from engine.access.scope import FULL, NOTHING, Patient, Scope

__all__ = [
    "ARCHIVE",
    "FULL",
    "NOTHING",
    "SERVICE",
    "Access",
    "Action",
    "Decision",
    "Destination",
    "Directory",
    "Grant",
    "Holder",
    "Kind",
    "NoAccounts",
    "Patient",
    "Policy",
    "Principal",
    "Records",
    "Scope",
    "Target",
]
