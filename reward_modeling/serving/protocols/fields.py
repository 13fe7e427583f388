"""Lists in requests, read no further than to their first mistake.

A list of millions of mistakes, each with its own words, takes minutes and gigabytes.
"""

from typing import Annotated, Any

from pydantic import Field, StrictInt

MOST = 100_000  # of a list, whatever the server's own limits are: it is not even read further

Texts = Annotated[list[str], Field(max_length=MOST, fail_fast=True)]
Messages = Annotated[list[dict[str, Any]], Field(max_length=MOST, fail_fast=True)]
Conversations = Annotated[list[Messages], Field(max_length=MOST, fail_fast=True)]
TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]
Rows = Annotated[list[TokenIds], Field(max_length=MOST, fail_fast=True)]
StepsOfOne = Annotated[list[str], Field(min_length=1, max_length=MOST, fail_fast=True)]
StepsOfSome = Annotated[list[StepsOfOne], Field(max_length=MOST, fail_fast=True)]
Numbers = Annotated[list[StrictInt], Field(max_length=MOST, fail_fast=True)]
