"""Permissions: all front ends check them with the same call.

    access = PeerRules(config)                              the rules in force
    access.allowed(principal, action, target) ──► Decision  true, or false with the reason

    principal   the requester: an application entity, a person at the command line, a background job
    action      the operation: store, query, retrieve, send, commit, associate
    target      its object: everything that is stored, or one destination

A decision covers an association or an operation, never one instance: ask once per operation and keep the answer. This
package knows neither DICOM, HTTP nor the archive; each front end words its own refusal.
"""

from __future__ import annotations

from engine.access.peer_rules import PeerRules
from engine.access.principal import Kind, Principal
from engine.access.question import ARCHIVE, Access, Action, Decision, Destination, Target

__all__ = ["ARCHIVE", "Access", "Action", "Decision", "Destination", "Kind", "PeerRules", "Principal", "Target"]
