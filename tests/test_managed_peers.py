"""engine.config.managed_peers: peers that were added on the page, beside those of the configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import config
from engine.config import Peer, managed_peers
from engine.errors import ConfigError

OWN = '[[peer]]  # ours\naet = "CT1"\nhost = "10.0.0.1"\nport = 104\n'


def load(tmp_path: Path) -> config.Config:
    (tmp_path / "filmroom.toml").write_text(f'data = "{tmp_path}"\n{OWN}')
    return config.load(tmp_path / "filmroom.toml", {}, {})


def write(tmp_path: Path, *peers: Peer) -> None:
    (tmp_path / managed_peers.FILE).write_text(managed_peers.text_of(peers))


def test_managed_peers_are_added_and_those_of_the_file_win(tmp_path: Path) -> None:
    write(tmp_path, Peer(aet="MR1", host="10.0.0.2", port=104), Peer(aet="CT1", host="10.9.9.9", port=11112))
    merged = load(tmp_path)
    assert [(peer.aet, peer.host) for peer in merged.peers] == [("CT1", "10.0.0.1"), ("MR1", "10.0.0.2")]
    origins = config.origins(tmp_path / "filmroom.toml", {}, {})
    assert origins["peer.MR1"] == "page" and "peer.CT1" not in origins


def test_every_value_of_a_peer_survives_the_file(tmp_path: Path) -> None:
    peers = (
        Peer(
            aet='A"B', host="fe80::1", port=1, may=("store",), destinations=("X", "Y"), transfer_syntaxes=("1.2.840",)
        ),
        Peer(aet="RÖNTGEN", url="https://pacs/dicom-web", prefer_compressed=True, timeout_s=1.5, query_results_max=0),
        Peer(aet="NOBODY", may=(), destinations=()),
    )
    write(tmp_path, *peers)
    assert managed_peers.read(tmp_path) == peers


def test_one_whose_instances_would_wait_for_a_copy_that_nobody_makes_is_refused(tmp_path: Path) -> None:
    own = load(tmp_path)
    for durable, needed in (("peer", "second_copy.replica"), ("object", "object_store.url")):
        peer = Peer(aet="MR1", durable=durable)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"the \[\[peer\]\] 'MR1': durable = \"{durable}\" needs {needed}"):
            managed_peers.with_peers(own, own.peers, [peer])
    assert managed_peers.with_peers(own, own.peers, [Peer(aet="MR1", durable="local")]).peer("MR1") is not None


def test_no_file_means_no_peers(tmp_path: Path) -> None:
    assert managed_peers.read(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aet = 5", "only [[peer]] tables"),
        ("[[peer]]\naet = 5", "peers.toml: [[peer]] number 1: aet"),
        ("[[peer]]\nhost = 'a b'\naet = 'X'\nport = 1", "is not the name or the address of a host"),
        ("[[peer]]\naet = 'X'\ntoken_file = '/etc/shadow'", "only a [[peer]] of the configuration file"),
        ("[[peer]]\naet = 'X'\n[[peer]]\naet = 'X'", "two [[peer]]"),
        ("[[peer]", "is not TOML"),
        ("peer = 7", "list of tables"),
        ("peer = [7]", "list of tables"),
        ("\xff", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / managed_peers.FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        load(tmp_path)
    assert reason in str(refused.value) and managed_peers.FILE in str(refused.value)


def test_a_wrong_table_is_explained_without_a_file() -> None:
    with pytest.raises(ConfigError) as refused:
        managed_peers.parse({"aet": "CT1", "hots": "x", "port": 70000})
    text = str(refused.value)
    assert "unknown key 'hots'; did you mean 'host'?" in text and "port" in text and "a peer:" not in text
    with pytest.raises(ConfigError, match="token_file"):
        managed_peers.parse({"aet": "CT1", "url": "https://x", "token_file": "/etc/shadow"})
