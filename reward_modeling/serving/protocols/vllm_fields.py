"""What requests in vLLM's protocol have."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.protocols.fields import Messages, Rows, Texts, TokenIds

MESSAGES = "a list of messages, each with role and content"
TEXTS = "a text or a list of texts"


class VllmRequest(BaseModel):
    """What all three have. Fields that are not known are passed over, as in vLLM and OpenAI."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    request_id: str | None = Field(None, max_length=200)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None
    activation: bool | None = None

    def wants_activation(self) -> bool:
        given = self.activation if self.use_activation is None else self.use_activation
        return True if given is None else given


class ClassifyRequest(VllmRequest):
    """`input`, or `messages` with what goes to the chat template."""

    input: TokenIds | Rows | str | Texts | None = Field(
        None, description="a text, a list of texts, a list of tokens, or a list of lists of tokens"
    )
    messages: Messages | None = Field(None, description=MESSAGES)
    add_special_tokens: bool = True
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_form(self) -> "ClassifyRequest":
        if (self.input is None) == (self.messages is None):
            found = "neither" if self.input is None else "both"
            raise ValueError(f"expected either input or messages, found {found}")
        if self.chat_template is not None:
            raise ValueError(
                "chat_template: expected none in a request, found one. It goes into the server's --chat_template"
            )
        return self


class PoolingRequest(ClassifyRequest):
    """`task` may be left out: the model knows one."""

    task: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    embed_dtype: Literal["float32"] = "float32"
    endianness: Literal["native", "little"] = "native"
    dimensions: None = Field(None, description="null, since the outputs are those of the model's labels")


class ScoreRequest(VllmRequest):
    """Pairs of texts, under any of the names that vLLM knows."""

    text_1: str | Texts | None = Field(None, description=TEXTS)
    text_2: str | Texts | None = Field(None, description=TEXTS)
    queries: str | Texts | None = Field(None, description=TEXTS)
    documents: str | Texts | None = Field(None, description=TEXTS)
    items: str | Texts | None = Field(None, description=TEXTS)
    data_1: str | Texts | None = Field(None, description=TEXTS)
    data_2: str | Texts | None = Field(None, description=TEXTS)

    def pairs(self) -> list[tuple[str, str]]:
        names = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
        for names_of_pair in names:
            first, second = (getattr(self, name) for name in names_of_pair)
            if first is not None and second is not None:
                break
        else:
            raise bad_request("expected text_1 and text_2, or queries and documents, found no pair of them")
        left, right = ([texts] if isinstance(texts, str) else texts for texts in (first, second))
        if not left or not right or len(left) not in (1, len(right)):
            raise bad_request(f"expected one text and n texts, or n and n, found {len(left)} and {len(right)}")
        return list(zip(left * len(right) if len(left) == 1 else left, right, strict=True))
