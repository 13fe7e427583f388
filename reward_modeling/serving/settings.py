"""What the server allows."""

from dataclasses import dataclass, field

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """Limits of the server; `serve.py` has a flag for most of them.

    `batch_tokens` is what one batch draws from the queue at most; None: twice the tokens of a forward pass.
    """

    model_name: str
    api_key: str | None = field(default=None, repr=False)
    complete_texts: bool = False  # of an end that a text has begun, add the rest
    # Of one request
    max_body_bytes: int = 32 * MEGABYTE
    max_conversations: int = 2048
    # Of all requests together
    max_queue_conversations: int = 16_384
    max_queue_tokens: int = 2_000_000
    max_connections: int = 512
    max_held_bytes: int = 512 * MEGABYTE  # of bodies, from their first byte to their answer
    batch_tokens: int | None = None
    # Seconds
    client_timeout: float = 60.0  # that a client may take to send a request, and to read the answer
    keep_alive: float = 75.0  # that a connection without a request stays open
    shutdown_timeout: float = 30.0  # that requests in flight get to finish
    tokenizer_threads: int = 2
