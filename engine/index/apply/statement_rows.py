"""The statement rows of a study or a series, and the facts that follow from them.

    add        adds a statement, or gives an existing one an earlier order
    correct    applies the attributes that corrections set to the facts
    leave      removes statements, and recomputes the facts from the others

If an entity has one statement and its facts have the same content, only the facts hold it. Call this within a batch of
the writer. `format.statements` defines statements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.index.apply.overlay import Part
from engine.index.database.transactions import Table, WriteTxn
from engine.index.format import keys
from engine.index.format.rows import UidRow, scan_prefix
from engine.index.format.statements import Facts, pack_content, unpack_content


def add_statement(
    txn: WriteTxn,
    table: Table,
    owner: bytes,
    digest: bytes,
    row: UidRow,
    order: bytes,
    above: bytes,
    content: list[bytes],
) -> bool:
    """Adds a statement to an entity, or gives it an earlier order. Returns whether that changed the row."""
    statement_key = owner + digest
    value = txn.get(statement_key, db=table)
    if value is not None and value[: keys.ORDER_BYTES] <= order:
        return False
    if value is not None:
        txn.put(statement_key, order + value[keys.ORDER_BYTES :], db=table)
    else:
        if row.statements == 1:
            _write_out(txn, table, owner, len(above), row.facts)
        row.statements += 1
        txn.put(statement_key, order + above + (pack_content(*content) if row.statements > 1 else b""), db=table)
    row.facts.observe(order, content)
    return True


def _write_out(txn: WriteTxn, table: Table, owner: bytes, above_bytes: int, facts: Facts) -> None:
    """Writes the content of the only statement, before there are more or the facts differ from it."""
    for key, value in scan_prefix(txn, table, owner):
        if len(value) > keys.ORDER_BYTES + above_bytes:
            return
        txn.put(key, value[: keys.ORDER_BYTES + above_bytes] + pack_content(*facts.blobs()), db=table)
        return


def correct_facts(
    txn: WriteTxn,
    table: Table,
    owner: bytes,
    row: UidRow,
    above_bytes: int,
    overlay_of: Callable[[Facts], Sequence[Part]],
) -> bool:
    """Applies corrections to the facts of an entity with a new statement. Returns whether there are any.

    A corrected entity gets the content of its only statement written out too, since its facts differ from it.
    """
    facts = row.facts
    head_bytes = keys.ORDER_BYTES + above_bytes
    was_corrected = facts.is_corrected
    if was_corrected:
        facts = Facts.empty(len(facts.parts))
        for _, value in scan_prefix(txn, table, owner):
            facts.observe(value[: keys.ORDER_BYTES], unpack_content(value[head_bytes:]))
    overlay = overlay_of(facts)
    is_corrected = any(overlay)
    if is_corrected and row.statements == 1:
        _write_out(txn, table, owner, above_bytes, facts)
    facts.correct(overlay)
    row.facts = facts
    return is_corrected or was_corrected


def leave_statements(
    txn: WriteTxn,
    table: Table,
    owner: bytes,
    row: UidRow,
    firsts: Mapping[bytes, bytes],
    above_bytes: int,
    overlay_of: Callable[[Facts], Sequence[Part]] | None,
) -> None:
    """Keeps only the statements of `firsts`, with their orders, and recomputes the facts from them and corrections."""
    head_bytes = keys.ORDER_BYTES + above_bytes
    part_count = len(row.facts.parts)
    facts_content = row.facts.blobs()
    statements = list(scan_prefix(txn, table, owner))
    facts = Facts.empty(part_count)
    remaining = []
    for key, value in statements:
        digest = key[len(owner) :]
        if digest not in firsts:
            txn.delete(key, db=table)
            continue
        content = unpack_content(value[head_bytes:]) if len(value) > head_bytes else facts_content
        facts.observe(firsts[digest], content)
        remaining.append((key, firsts[digest] + value[keys.ORDER_BYTES : head_bytes], content))
    overlay = overlay_of(facts) if overlay_of is not None else ()
    if any(overlay):
        facts.correct(overlay)
    facts_suffice = len(firsts) == 1 and not any(overlay)
    for key, head, content in remaining:
        txn.put(key, head if facts_suffice else head + pack_content(*content), db=table)
    row.statements = len(firsts)
    row.facts = facts


def drop_rows(txn: WriteTxn, table: Table, prefix: bytes) -> None:
    """Deletes every row whose key begins with this prefix."""
    for key, _ in list(scan_prefix(txn, table, prefix)):
        txn.delete(key, db=table)
