"""Credentials in URLs, headers and fields: used where they are needed, and never written.

Everything that a run writes or prints passes through `masked`: configurations, command lines, names of endpoints, error
messages. Values with a secret's name or position are masked, and so are values that may be secret: in a URL's query all
but a few names that are known to be harmless, and in the fields of a request (`endpoint.extra`) all texts but short
ones and plain words.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

import yaml

from selfkd.errors import InputError

MASK = "***"
_OPEN_FIELDS = {"endpoint", "extra"}  # keys and values of a request are the endpoint's, and unknown here
_MAX_OPEN_CHARACTERS = 7  # of a text in them that is no plain words and yet is shown
_PLAIN_WORDS = re.compile(r"[a-z]+(?:[ _-][a-z]+)*")
_MIN_CHARACTERS = 4  # of a secret that is searched for in texts: shorter ones occur in too many words
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,29}://[^\s\"'<>`\\]*")
_NO_SCHEME = re.compile(r"[^\s/:@]*:[^\s@]*@\S+")  # user:password@host without a scheme
_WORDS = {
    "harmless": "api-version api_version version v model deployment region location beta lang language",
    "secret": "key apikey token secret password passwd passphrase pwd authorization auth credential credentials cookie"
    " signature sig bearer jwt",
    "holds secrets": "headers extra_headers default_headers query extra_query default_query",
}
_HARMLESS, _SECRET, _HOLD_SECRETS = (frozenset(words.split()) for words in _WORDS.values())
_SCHEMED = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)


@dataclass(frozen=True)
class EndpointURL:
    """A base URL without its credentials. `shown` is for messages and files, the rest for the client."""

    base: str
    shown: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    query: dict[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def read_endpoint(url: str, name: str = "url") -> EndpointURL:
    """`url` is "" for the client's own default. Raises InputError, which names the field and no secret, for any text
    that is no http(s) URL."""
    shown = masked_url(url)
    if not url:
        return EndpointURL("", "")
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{name}: {shown}: must start with http:// or https://")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or any(c.isspace() for c in url):
        raise InputError(
            f"{name}: {shown}: no valid URL; percent-encode special characters of a password: @ is %40, / is %2F"
        )
    host_and_port = parts.netloc.rpartition("@")[2]
    headers = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return EndpointURL(f"{parts.scheme}://{host_and_port}{parts.path}", shown, headers, query, tuple(secrets_in(url)))


def masked(value: Any, name: str = "", is_open: bool = False) -> Any:
    """A value of JSON without its credentials; `name` is the name of its field, `is_open` whether it is within a
    request's fields. Other text is kept."""
    is_open = is_open or name in _OPEN_FIELDS
    if isinstance(value, Mapping):
        hides = name.lower() in _HOLD_SECRETS
        return {k: MASK if hides and isinstance(v, str) else masked(v, str(k), is_open) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(v, name, is_open) for v in value]
    if not isinstance(value, str) or not value:
        return value
    if _is_secret(name) or (is_open and _may_be_secret(value, name)):
        return MASK
    return masked_url(value) if _is_url(value, name) else masked_text(value)


def masked_text(text: str) -> str:
    """A text without the credentials of its URLs and without tokens after Bearer or Basic."""
    if ("://" in text and text.partition("://")[0].isalpha()) or _NO_SCHEME.fullmatch(text):
        return masked_url(text)
    return _SCHEMED.sub(rf"\1 {MASK}", _URL.sub(lambda found: masked_url(found[0]), text))


def masked_url(url: str) -> str:
    """The URL without credentials. A password may hold / or ?: everything up to the last @ is masked."""
    scheme, mark, rest = url.partition("://")
    scheme, rest = (scheme, rest) if mark else ("", url)
    if "@" in rest:
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    rest, sharp, _ = rest.partition("#")
    address, question_mark, query = rest.partition("?")
    shown = "&".join(_masked_pair(pair) for pair in re.split("[&;]", query))
    return f"{scheme}{mark}{address}{question_mark}{shown}{f'#{MASK}' if sharp else ''}"


def masked_command(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line without the credentials in them."""
    secrets = list(_secrets_of_command(arguments))
    return [without(masked_text(argument), secrets) for argument in arguments]


def masked_message(message: str, arguments: Sequence[str], recipes: Iterable[Any] = ()) -> str:
    """A message of a command without the credentials of its arguments and of its recipes, which are parsed."""
    return without(masked_text(message), [*_secrets_of_command(arguments), *secrets_in(list(recipes))])


def secrets_in(value: Any, name: str = "", is_open: bool = False) -> Iterator[str]:
    """The credentials in a value of JSON, each verbatim and as it is sent; the arguments are those of `masked`."""
    is_open = is_open or name in _OPEN_FIELDS
    if isinstance(value, Mapping):
        hides = name.lower() in _HOLD_SECRETS
        for k, v in value.items():
            yield from _secret_and_token(v) if hides and isinstance(v, str) else secrets_in(v, str(k), is_open)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from secrets_in(v, name, is_open)
    elif isinstance(value, str) and value:
        is_secret = _is_secret(name) or (is_open and _may_be_secret(value, name))
        yield from _secret_and_token(value) if is_secret else _in_text(value)


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without the secrets, in all of their encodings in URLs, JSON and headers."""
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _MIN_CHARACTERS}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _secrets_of_command(arguments: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        before = "" if equals else flag
        path, _, name = flag.lstrip("-").rpartition(".")
        is_open = not _OPEN_FIELDS.isdisjoint(path.split("."))
        if equals and value[:1] in ("{", "["):  # a mapping or a list, as the parser accepts it
            with suppress(yaml.YAMLError, ValueError, RecursionError):
                yield from secrets_in(yaml.safe_load(value), name, is_open)
        if equals:
            yield from secrets_in(value, name, is_open)


def _is_url(text: str, name: str = "") -> bool:
    """Whether the whole text is a URL, perhaps an invalid one: then all of it may be secret."""
    scheme, mark, _ = text.partition("://")
    return name.endswith("url") or bool(mark and scheme.isalpha()) or bool(_NO_SCHEME.fullmatch(text))


def _is_secret(name: str) -> bool:
    return bool(_SECRET & set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())))


def _may_be_secret(text: str, name: str) -> bool:
    is_plain = len(text) <= _MAX_OPEN_CHARACTERS or _PLAIN_WORDS.fullmatch(text) or name.lower() in _HARMLESS
    return not is_plain


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not pair or (equals and (not value or unquote_plus(name).lower() in _HARMLESS)):
        return pair
    return f"{name}={MASK}" if equals else MASK


def _secret_and_token(value: str) -> Iterator[str]:
    yield value
    scheme, _, token = value.partition(" ")
    if token and scheme.lower() in ("bearer", "basic", "token"):
        yield token


def _in_text(text: str) -> Iterator[str]:
    yield from (found[0].split()[-1] for found in _SCHEMED.finditer(text))
    whole = ("://" in text and text.partition("://")[0].isalpha()) or _NO_SCHEME.fullmatch(text)
    for url in [text] if whole else _URL.findall(text):
        rest = url.partition("://")[2] or url
        userinfo = rest.rpartition("@")[0]
        user, colon, password = userinfo.partition(":")
        if userinfo:
            yield from (userinfo, password if colon else user)
            yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        query = rest.rpartition("@")[2].partition("#")[0].partition("?")[2]
        for pair in re.split("[&;]", query):
            key, equals, value = pair.partition("=")
            if _masked_pair(pair) != pair:
                yield value if equals else key
        yield rest.rpartition("@")[2].partition("#")[2]


def _forms(secret: str) -> Iterator[str]:
    plain = unquote(secret)
    yield from (secret, plain, unquote_plus(secret), quote(plain, safe=""), quote(plain), quote_plus(plain))
    for text in (secret, plain):
        yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
