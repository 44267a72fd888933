"""Which addresses users' URLs may lead to, against the special-purpose registries of IANA."""

from ipaddress import ip_address, ip_network

import pytest

from scheduler.errors import ConfigurationError
from worker.channels.destination import DestinationPolicy, is_public

# https://www.iana.org/assignments/iana-ipv4-special-registry: all entries that are not globally reachable, and
# https://www.iana.org/assignments/multicast-addresses.
REFUSED_IPV4 = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.170/32",
    "192.0.0.171/32",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
]

# https://www.iana.org/assignments/iana-ipv6-special-registry: entries that are not globally reachable, or that hold
# IPv4 addresses; and the blocks outside global unicast.
REFUSED_IPV6 = [
    "::1/128",
    "::/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::/96",
    "::ffff:0:0:0/96",
    "4000::/3",
    "e000::/4",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "192.175.48.1",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "168.63.129.15",
    "168.63.129.17",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2620:4f:8000::1",
    "2a00:1450::1",
    "3ffe:ffff::1",
    "3fff:1000::1",
]


@pytest.mark.parametrize("network", REFUSED_IPV4 + REFUSED_IPV6)
def test_a_block_that_is_not_global_is_refused_from_its_first_to_its_last_address(network: str) -> None:
    block = ip_network(network)
    middle = block[block.num_addresses // 2]
    assert [is_public(address) for address in (block[0], middle, block[-1])] == [False] * 3


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_allowed(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",  # AWS, Google, Azure and most others
        "169.254.170.2",  # AWS, containers
        "fd00:ec2::254",  # AWS over IPv6
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure
        "fd20:ce::254",  # Google over IPv6
    ],
)
def test_metadata_services_are_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("hidden", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8"])
@pytest.mark.parametrize("prefix", ["::ffff:", "::", "64:ff9b::", "::ffff:0:", "64:ff9b:1::"])
def test_an_ipv4_address_in_an_ipv6_one_is_refused(prefix: str, hidden: str) -> None:
    assert not is_public(ip_address(prefix + hidden))


def test_what_the_standard_library_takes_for_global_is_refused_all_the_same() -> None:
    for address in ("64:ff9b::7f00:1", "224.0.0.1", "ff0e::1"):
        assert ip_address(address).is_global
        assert not is_public(ip_address(address))
    assert not ip_address("100.64.0.1").is_private
    assert not is_public(ip_address("100.64.0.1"))


def test_nothing_is_public_that_the_standard_library_takes_for_private() -> None:
    for block in ("0.0.0.0/0", "2000::/3"):
        network = ip_network(block)
        step = network.num_addresses // 50_021
        for number in range(0, network.num_addresses, step):
            address = network[number]
            is_special = address.is_private or address.is_reserved or address.is_multicast
            assert not (is_special and is_public(address)), address


def policy(*networks: str, ports: frozenset[int] = frozenset({80, 443})) -> DestinationPolicy:
    return DestinationPolicy(networks, ports)


def test_the_port_must_be_one_of_the_allowed() -> None:
    assert policy().allows("1.1.1.1", 443)
    assert not policy().allows("1.1.1.1", 25)
    assert policy(ports=frozenset({25})).allows("1.1.1.1", 25)
    assert not policy("10.0.0.0/8").allows("10.0.0.1", 25)


def test_networks_are_allowed_literally() -> None:
    allowing = policy("127.0.0.0/8", "fd00::/8")
    assert allowing.allows("127.0.0.1", 80)
    assert allowing.allows("fd00::1", 80)
    assert not allowing.allows("::ffff:127.0.0.1", 80)
    assert not allowing.allows("10.0.0.1", 80)
    assert not allowing.allows("::1", 80)


@pytest.mark.parametrize("host", ["", "localhost", "127.1", "0177.0.0.1", "fe80::1%eth0", "/run/socket"])
def test_what_is_no_address_is_refused(host: str) -> None:
    assert not policy().allows(host, 80)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "localhost", "10.0.0.0/33", ""])
def test_an_allowed_network_must_be_one(network: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed_networks"):
        policy(network)
