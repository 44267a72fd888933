"""Which addresses a URL that a user gave may lead to: those of other people's machines on the public internet.

The address that is judged must be the one that is connected to, after resolution: then neither odd spellings
(`0177.0.0.1`, `2130706433`) nor a name that resolves differently the second time gets by.

Refused are, after the registries of IANA as of 2025:

* IPv4 (https://www.iana.org/assignments/iana-ipv4-special-registry, RFC 6890): every block that is not globally
  reachable, and with them whole `192.0.0.0/24` and the retired 6to4 relays; multicast; the reserved rest.
* IPv6: whatever is outside `2000::/3`, all that is assigned for global unicast
  (https://www.iana.org/assignments/ipv6-address-space), so loopback, unique local, link-local, multicast,
  discard-only, IPv4-mapped and NAT64 (`64:ff9b::/96`) addresses; inside it the blocks of
  https://www.iana.org/assignments/iana-ipv6-special-registry that are not globally reachable or hold an IPv4
  address (6to4, Teredo), and whole `2001::/23`.
* the metadata service of Azure, which has an address of the public internet; those of other clouds are in the
  blocks above (`169.254.169.254`, `fd00:ec2::254`, `100.100.100.200`, `192.0.0.192`).

Limits: a machine of the own network with a public address is not told from any other. On a network that reaches
IPv4 only through NAT64, IPv4 destinations are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from scheduler.errors import ConfigurationError

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

_REFUSED_IPV4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private use
            "100.64.0.0/10",  # shared by carriers' NAT
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's metadata
            "169.254.0.0/16",  # link-local
            "172.16.0.0/12",  # private use
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4, retired
            "192.168.0.0/16",  # private use
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved; the last is the limited broadcast
        ),
    )
)
_REFUSED_IPV6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, with Teredo, benchmarks and ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address belongs to the public internet, by the rules above."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _REFUSED_IPV6)


class DestinationPolicy:
    """The addresses and ports that may be connected to.

    `allowed_networks` (CIDR) are allowed besides the public internet, literally: an IPv4 network allows no IPv6
    form of its addresses. Raises ConfigurationError for one that is no network.
    """

    def __init__(self, allowed_networks: Iterable[str], allowed_ports: frozenset[int]) -> None:
        try:
            self._networks = tuple(map(ip_network, allowed_networks))
        except ValueError as error:
            raise ConfigurationError(
                f"allowed_networks takes networks such as 10.1.0.0/16: {error}"
            ) from None
        self._ports = allowed_ports

    def allows(self, host: str, port: int) -> bool:
        """Whether a connection to this address, as the system writes it, may be opened."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if port not in self._ports:
            return False
        return is_public(address) or any(address in network for network in self._networks)
