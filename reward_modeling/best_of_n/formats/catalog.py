"""The formats by the names that --format takes."""

from reward_modeling.best_of_n.formats.base import RowFormat
from reward_modeling.best_of_n.formats.llama_factory import LlamaFactory
from reward_modeling.best_of_n.formats.ours import Ours
from reward_modeling.best_of_n.formats.trl import Trl

FORMATS: dict[str, type[RowFormat]] = {"ours": Ours, "trl": Trl, "llama_factory": LlamaFactory}
