"""Accounts: the people and programs that may use an archive, and what proves that it is them.

    users       name, roles, password, second factor                              `users`, `passwords`
    sessions    one log-in of one user in one browser                             `sessions`
    database    DATA/accounts: LMDB of its own, synced at each commit             `database`, `records`

    Accounts    what the server's processes ask, on their event loop              `accounts`

Nothing here is derived from the log: losing it means to make every account again, so it is in each backup. Commands
open the same database beside a running server, and every process sees a change at its next question. Of what proves
an identity only digests are stored: SHA-256 of random tokens, argon2id of passwords.
"""
