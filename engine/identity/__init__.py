"""Identity: who somebody is whom another server vouches for, by OpenID Connect and JSON Web Tokens (RFC 7519).

    settings      the [[oidc]] tables
    tokens        is a token genuine, meant for us, and in force?                pure
    claims        claims → user name, roles, attributes, the patient of a launch pure
    attempt       one log-in under way: state, nonce, PKCE (RFC 7636)            pure
    key_set       the keys of a provider, fetched when needed
    provider      one provider: discovery, authorization, exchange of a code, log-out
    providers     all providers of a process: bearer tokens, log-ins

Whatever a provider or a client sends is untrusted until a signature by a key of the provider says otherwise. If keys
cannot be had, nobody is let in.
"""
