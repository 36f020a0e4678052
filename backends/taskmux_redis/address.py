"""What a URL says: redis://, rediss://, unix://, redis+cluster://, redis+sentinel://.

A refusal shows a URL's scheme and nothing more of it: where it cannot be read, nobody can tell
its password from the rest.
"""

from __future__ import annotations

from typing import Annotated, Final, NoReturn
from urllib.parse import SplitResult, unquote

import msgspec
from msgspec import Meta
from taskmux.driver import InvalidURL, hide_credentials, split_url

from taskmux_redis.keys import check_prefix

__all__ = ["SCHEMES", "Address", "Options", "parse"]

SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "redis+sentinel")
_LARGEST_PORT: Final = 2**16 - 1


class Options(msgspec.Struct, frozen=True):
    """What may follow `?` in a URL."""

    prefix: str = "tm"
    allow_eviction: bool = False
    timeout: Annotated[float, Meta(ge=0.1, le=300)] = 5.0
    """Seconds an operation may take before its connection is given up."""
    db: Annotated[int, Meta(ge=0, lt=10**8)] | None = None
    tls: bool = False
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None


class Address(msgspec.Struct, frozen=True):
    """What a URL says."""

    url: str
    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    """The socket's path, or the Sentinel service's name."""
    database: int
    username: str | None
    password: str | None
    options: Options

    def __repr__(self) -> str:
        return f"Address({self.where!r})"

    @property
    def where(self) -> str:
        """The server's address for messages."""
        if self.scheme == "unix":
            return self.path
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )

    @property
    def shown(self) -> str:
        """The URL with credentials hidden, put together from what was understood of it."""
        hidden = "***@" if self.username or self.password else ""
        if self.scheme == "unix":
            return hide_credentials(f"unix://{hidden}{self.path}?db={self.database}")
        service = f"/{self.path}" if self.path else ""
        number = "" if self.scheme == "redis+cluster" else f"/{self.database}"
        return f"{self.scheme}://{hidden}{self.where}{service}{number}"

    @property
    def tls(self) -> dict[str, str] | None:
        """Files for TLS by the client's names; None without TLS."""
        options = self.options
        named = {
            "ssl_ca_certs": options.ssl_ca_certs,
            "ssl_certfile": options.ssl_certfile,
            "ssl_keyfile": options.ssl_keyfile,
        }
        files = {name: file for name, file in named.items() if file is not None}
        return files if self.scheme == "rediss" or files or options.tls else None


def parse(url: str) -> Address:
    """Return what the URL says.

    Raises:
        InvalidURL: it says something that cannot be meant; the message has no credentials.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise InvalidURL(f"The URL does not begin with one of {', '.join(SCHEMES)} and '://'.")
    parts, given = _split(url, scheme)
    options = _options(scheme, given)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    path, database = _path_and_database(scheme, parts.path, options)
    default = 26379 if scheme == "redis+sentinel" else 6379
    return Address(
        url=url,
        scheme=scheme,
        hosts=tuple(_host(scheme, text, default) for text in _hosts(parts)),
        path=path,
        database=database,
        username=unquote(user) or None,
        password=unquote(password) or None,
        options=options,
    )


def _refuse(scheme: str, text: str) -> NoReturn:
    raise InvalidURL(f"The {scheme}:// URL {text}")


def _split(url: str, scheme: str) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts, given = split_url(url)
    except InvalidURL:
        parts = None
    if parts is None or not url[len(scheme) :].startswith("://") or "@" in parts.path:
        _refuse(
            scheme,
            f"is malformed. Write {scheme}://user:password@host:port/..., or for a socket "
            "unix://user:password@/path, and percent-encode '@', ':', '/', '?' and '#' in "
            "credentials and paths.",
        )
    return parts, given


def _options(scheme: str, given: dict[str, str]) -> Options:
    known = Options.__struct_fields__
    unknown = sorted(set(given) - set(known))
    if unknown:
        # A name without a value may be a piece of a password that began with '?'.
        name = f" {unknown[0]!r}" if given[unknown[0]] and unknown[0].isidentifier() else ""
        _refuse(scheme, f"has an unknown option{name}. Known options: {', '.join(sorted(known))}.")
    try:
        options = msgspec.convert(given, Options, strict=False)
    except msgspec.ValidationError as error:
        what, _, name = str(error).rpartition(" - at `$.")
        _refuse(scheme, f"has an unusable {name.rstrip('`')}: {what} (true and false are 1 and 0).")
    return msgspec.structs.replace(options, prefix=check_prefix(options.prefix))


def _hosts(parts: SplitResult) -> list[str]:
    if parts.scheme.lower() == "unix":
        return []
    return parts.netloc.rpartition("@")[2].split(",")


def _host(scheme: str, text: str, default: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default)
    if not port.isdecimal() or not 0 < int(port) <= _LARGEST_PORT:
        _refuse(scheme, "has an unusable port. Write a number from 1 to 65535.")
    return host.strip("[]") or "localhost", int(port)


def _path_and_database(scheme: str, path: str, options: Options) -> tuple[str, int]:
    path, name, number = unquote(path), "", ""
    if scheme == "unix":
        name = path
    elif scheme == "redis+sentinel":
        name, _, number = path.strip("/").partition("/")
        if not name:
            _refuse(
                scheme, "names no Sentinel service. Write redis+sentinel://host:26379/mymaster."
            )
    else:
        number = path.strip("/")
    if number and not (number.isdecimal() and len(number) < 9):  # noqa: PLR2004 - fits an int32
        _refuse(scheme, "has an unusable database. Write its number: redis://host:6379/0.")
    database = int(number or 0) if options.db is None else options.db
    if scheme == "redis+cluster" and database:
        _refuse(scheme, "names a database; a cluster has only 0. Leave the number out.")
    return name, database
