"""The [[oidc]] tables: what a mistake in them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load
from engine.errors import ConfigError

GOOD = 'name = "hospital"\nissuer = "https://sso.example/realms/pacs"\nclient_id = "filmroom"\n'


def test_a_provider_is_read_with_its_mapping(tmp_path: Path) -> None:
    path = tmp_path / "filmroom.toml"
    more = "roles = { 'Dr. Who' = 'radiologist' }\nattributes = { department = 'dept' }\n"
    path.write_text(f"[[oidc]]\n{GOOD}{more}")
    (provider,) = load(path, {}, {}).oidc
    assert (provider.roles, provider.attributes) == ({"Dr. Who": "radiologist"}, {"department": "dept"})
    assert provider.decides_roles and not provider.audiences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("https", "http"), "must be https"),
        (GOOD + 'roles = { x = "rediologist" }\n', "gives the role rediologist"),
        (GOOD + 'default_roles = ["nobody"]\n', "gives the role nobody"),
        (GOOD + 'algorithms = ["HS256"]\n', "HS256"),
        (GOOD + 'algorithms = ["none"]\n', "none"),
        (GOOD + 'scopes = ["profile"]\n', "need openid"),
        (GOOD + 'client_secret = "x"\n', "client_secret_file"),
        ('name = "hospital"\nclient_id = "x"\n', "issuer"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "filmroom.toml"
    path.write_text(f"[[oidc]]\n{text}")
    with pytest.raises(ConfigError, match=words):
        load(path, {}, {})


def test_two_providers_have_two_names(tmp_path: Path) -> None:
    path = tmp_path / "filmroom.toml"
    path.write_text(f"[[oidc]]\n{GOOD}[[oidc]]\n{GOOD}")
    with pytest.raises(ConfigError, match=r"two \[\[oidc\]\]"):
        load(path, {}, {})
