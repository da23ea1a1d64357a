"""W&B's public API: a connection that never prompts or hangs, and its errors in one line."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from gptlab.config import ConfigError
from gptlab.runs.trackers import one_line
from gptlab.runs.wandb_tracker import has_api_key, import_wandb


def connect(source: str) -> Any:
    """Return a wandb.Api. `source` is the command that an error names.

    Raises ConfigError if there is no API key, or if W&B's server does not answer.
    """
    wandb = import_wandb()
    if not has_api_key(source, "run `wandb login`"):
        raise ConfigError(f"{source}: no API key is configured; run `wandb login`")
    _check_server(source, wandb.setup().settings.base_url, float(os.environ["WANDB_HTTP_TIMEOUT"]))
    with blaming_wandb(source, "check the network and the key"):
        return wandb.Api()


@contextmanager
def blaming_wandb(source: str, mend: str) -> Iterator[None]:
    """Turn the errors of W&B's API inside the block into a ConfigError of one line."""
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except ConfigError:
        raise
    except (Error, WandbApiFailedError, OSError, ValueError) as error:
        raise ConfigError(f"{source}: W&B rejected it ({one_line(error)}); {mend}") from error


def owner_of(api: Any, entity: str | None) -> str:
    """Return `entity`, else that of W&B's settings, else the owner of the API key."""
    return entity or api.settings["entity"] or api.default_entity


def _check_server(source: str, host: str, timeout: float) -> None:
    """Reject a server that does not answer at all: wandb would retry for minutes, also at exit."""
    try:
        urllib.request.urlopen(host, timeout=timeout).close()
    except (urllib.error.HTTPError, HTTPException):
        return  # the server did answer
    except OSError as error:
        why = getattr(error, "reason", error)
        if not isinstance(why, ssl.SSLError):  # wandb has its own settings for certificates
            raise ConfigError(f"{source}: {host} does not answer ({why}); check the network") from error
