"""What trainers of policies ask a server of rewards, written anew after how they do it.

OpenRLHF: `SingleTurnAgentExecutor` of openrlhf/utils/agent.py and `_process_response_into_experience` of
openrlhf/trainer/ppo_utils/samples_generator.py, as of 2026. verl: `RewardLoopWorker` of
verl/experimental/reward_loop/reward_loop.py, as of late 2025.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import torch
from transformers import PreTrainedTokenizerBase

OPENRLHF_SECONDS, OPENRLHF_TRIES = 180, 5
VERL_TRIES = 16


class OpenRLHFClient:
    """Each sample by itself: a whole text, prompt and action decoded together with their special tokens.

    Args:
        urls: of which the first gets the sample, and each other one an empty list.
    """

    def __init__(self, urls: Sequence[str], tokenizer: PreTrainedTokenizerBase):
        self.urls = urls
        self.tokenizer = tokenizer

    def rewards(self, samples: Sequence[tuple[list[int], list[int]]]) -> list[dict[str, torch.Tensor]]:
        """Of each (tokens of the prompt, tokens of the answer) what goes into an experience."""

        async def all_of_them():
            return await asyncio.gather(*(self._sample(*sample) for sample in samples))

        return asyncio.run(all_of_them())

    async def _sample(self, prompt_ids: list[int], action_ids: list[int]) -> dict[str, torch.Tensor]:
        query = self.tokenizer.decode(prompt_ids + action_ids, skip_special_tokens=False)
        prompt = self.tokenizer.decode(prompt_ids, skip_special_tokens=False)
        told, *others = await asyncio.gather(
            self._ask(self.urls[0], [query], [prompt], ["a label"]),
            *(self._ask(url, [], [], []) for url in self.urls[1:]),
        )
        assert all(other["rewards"] == [] for other in others)
        reward = told.get("rewards")
        score = told.get("scores") or reward
        logs = {name: torch.tensor([value]) for name, value in (told.get("extra_logs") or {}).items()}
        return {"reward": torch.tensor([reward]), "score": torch.tensor([score]), **logs}

    async def _ask(self, url: str, queries: list[str], prompts: list[str], labels: list[Any]) -> dict[str, Any]:
        body = {"query": queries, "prompts": prompts, "labels": labels}
        for _ in range(OPENRLHF_TRIES):
            try:
                return await _post(url, body, OPENRLHF_SECONDS)
            except aiohttp.ClientError:
                await asyncio.sleep(1)
        raise RuntimeError(f"{url}: no answer in {OPENRLHF_TRIES} tries")


class VerlClient:
    """Each answer by itself: decoded, its end taken off, written by the reward model's template without BOS."""

    def __init__(self, address: str, policy: PreTrainedTokenizerBase, reward_model: PreTrainedTokenizerBase, name: str):
        self.address, self.policy, self.reward_model, self.name = address, policy, reward_model, name

    def rewards(self, samples: Sequence[tuple[list[dict], list[int]]]) -> list[float]:
        """Of each (messages of the prompt, tokens of the answer)."""

        async def all_of_them():
            return await asyncio.gather(*(self._sample(*sample) for sample in samples))

        return asyncio.run(all_of_them())

    async def _sample(self, messages: list[dict], action_ids: list[int]) -> float:
        answer = self.policy.decode(action_ids).replace(self.policy.eos_token, "")
        chat = [*messages, {"role": "assistant", "content": answer}]
        text = self.reward_model.apply_chat_template(chat, add_generation_prompt=False, tokenize=False)
        bos = self.reward_model.bos_token
        if bos is not None and text.startswith(bos):
            text = text[len(bos) :]
        told = await self._ask({"model": self.name, "input": text, "activation": False})
        return told["data"][-1]["probs"][-1]

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(VERL_TRIES):
            try:
                return await _post(f"http://{self.address}/classify", body, None)
            except aiohttp.ClientResponseError as error:
                if 400 <= error.status < 500:
                    raise
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(min(2**attempt, 30))
        raise RuntimeError(f"{self.address}: no answer in {VERL_TRIES} tries")


async def _post(url: str, body: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=body) as answer:
        answer.raise_for_status()
        return await answer.json()
