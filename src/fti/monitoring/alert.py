"""An alert: the breaches of a moment in; one message to a webhook, delivered or refused with a reason, out."""

from __future__ import annotations

import hashlib
import html
import http.client
import json
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fti.contract.results import Result, worst
from fti.errors import Refusal

SHOWN = 20  # breaches that a message names: chat programs cut off long ones, and all are in SQL
DETAIL_CHARACTERS = 300
BACKOFF_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0


class AlertFailed(Refusal):
    """The receiver has not taken the alert."""


class AlertSettings(BaseSettings):
    """Whom to tell of a breach: `MONITORING_*`. The URL is a secret: who has it can write to the channel."""

    model_config = SettingsConfigDict(
        env_prefix="MONITORING_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    webhook_url: SecretStr | None = None
    webhook_timeout_seconds: float = Field(10, gt=0)
    webhook_attempts: int = Field(5, ge=1)

    @field_validator("webhook_url")
    @classmethod
    def _is_web_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not _is_web_address(url.get_secret_value()):
            raise ValueError("expected http://HOST/... or https://HOST/..., without a user's name")
        return url


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        return known and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:  # of the port
        return False


def alert_settings() -> AlertSettings:
    """What the environment says. Raises Refusal."""
    try:
        return AlertSettings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = f"MONITORING_{str(first['loc'][0]).upper()}"
        raise Refusal(
            f"{name}: {first['msg']}. See .env.example; unset it, or give --no-alert, for no alerts."
        ) from None


class _NoRedirect(HTTPRedirectHandler):
    """What is meant for one address goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Call:
    """One request, which ends after `seconds` whatever the receiver does. urllib's own timeout is for each read, each
    address and each step of TLS: a receiver that sends a byte now and then outlasts it."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._request, self._seconds = request, seconds
        self._connections: list[http.client.HTTPConnection] = []
        self._failed: BaseException | None = None

    def run(self) -> None:
        """Raises HTTPError, OSError and HTTPException, as urllib does; TimeoutError after the time."""
        # Names are looked up without a limit, too: so the whole of it is in a thread, which is left behind.
        thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if thread.is_alive():
            for connection in self._connections:
                with suppress(OSError, AttributeError):  # there is no socket yet, or no more
                    connection.sock.shutdown(socket.SHUT_RDWR)
            raise TimeoutError
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        # urllib logs nothing. The loggers of requests' urllib3 and of httpx write whole URLs, and this one is a secret.
        opener = build_opener(_NoRedirect, _kept(HTTPHandler, self._keep), _kept(HTTPSHandler, self._keep))
        try:
            opener.open(self._request, timeout=self._seconds).close()
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            self._failed = error

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        self._connections.append(connection)


def _kept(handler: type[Any], keep: Callable[[http.client.HTTPConnection], None]) -> Any:
    """A handler of urllib that hands its connections to `keep` before it uses them."""

    class Kept(handler):
        def do_open(self, http_class: Any, request: Request, **more: Any) -> Any:
            def made(*arguments: Any, **named: Any) -> Any:
                connection = http_class(*arguments, **named)
                keep(connection)
                return connection

            return super().do_open(made, request, **more)

    return Kept()


def alert(
    settings: AlertSettings, as_of: datetime, results: Sequence[Result], backoff_seconds: float = BACKOFF_SECONDS
) -> bool:
    """Tell the webhook of the breaches; whether there was anything, and anybody, to tell. Raises AlertFailed.

    Connection errors, timeouts, 429 and 5xx are tried again, after twice the time on average each time, or after what
    Retry-After says. Repeats have the same Idempotency-Key, and so has the same finding as of the same moment later.
    """
    if settings.webhook_url is None or worst(results) != "breach":
        return False
    url, body = settings.webhook_url.get_secret_value(), json.dumps(message(as_of, results)).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32]}
    for attempt in range(1, settings.webhook_attempts + 1):
        wait = backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret is made of it
        try:
            _Call(Request(url, body, headers), settings.webhook_timeout_seconds).run()  # noqa: S310 - checked above
            return True
        except HTTPError as answer:
            answer.close()
            found, again = f"it answered {answer.code}", answer.code == 429 or answer.code >= 500
            wait = max(wait, _asked_to_wait(answer))
        except (OSError, http.client.HTTPException) as error:
            found, again = _in_words(error), True
        if not again or attempt == settings.webhook_attempts:
            break
        time.sleep(min(wait, LONGEST_WAIT_SECONDS))
    raise AlertFailed(
        f"The alert was not taken by {urlsplit(url).hostname} (attempt {attempt} of {settings.webhook_attempts}): "
        f"{found}. The results are saved; check MONITORING_WEBHOOK_URL and run the same command again."
    ) from None  # the cause may name the URL


def message(as_of: datetime, results: Sequence[Result]) -> dict[str, Any]:
    """The body: `text` is what chat programs show, the other fields are for programs."""
    breaches = [one for one in results if one.verdict == "breach"]
    count = f"{len(breaches):,} measurement{'s are' if len(breaches) > 1 else ' is'}"
    lines = [f"Monitoring as of {as_of:%Y-%m-%d %H:%M} UTC: {count} in breach."]
    for one in breaches[:SHOWN]:
        value = "" if one.value is None else f" {one.value:.4g}"
        lines.append(f"- {one.monitor}, {one.subject}: {one.metric}{value}. {_cut(one.details)}".rstrip())
    if len(breaches) > SHOWN:
        lines.append(f"and {len(breaches) - SHOWN:,} more")
    return {
        # Slack takes <!channel> for a command, and details hold values of the data.
        "text": html.escape("\n".join(lines), quote=False),
        "verdict": worst(results),
        "as_of": as_of.isoformat(),
        "breaches": len(breaches),
        "results": [_plain(one) for one in breaches[:SHOWN]],
    }


def _plain(result: Result) -> dict[str, Any]:
    plain = {
        name: value.isoformat() if isinstance(value, datetime) else None if _no_number(value) else value
        for name, value in asdict(result).items()
    }
    return plain | {"details": _cut(result.details)}


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _cut(text: str) -> str:
    return text if len(text) <= DETAIL_CHARACTERS else f"{text[:DETAIL_CHARACTERS]}..."


def _asked_to_wait(answer: HTTPError) -> float:
    """Seconds that Retry-After asks for, as a number or as a moment by the receiver's own clock; 0 if it does not."""
    asked = answer.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        return (parsedate_to_datetime(asked) - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def _in_words(error: Exception) -> str:
    """What went wrong, in words that do not hold the URL."""
    reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(reason, TimeoutError):
        return "it did not answer in time"
    return str(getattr(reason, "strerror", None) or type(reason).__name__)
