"""Tuning and answering of the laptop profile beside plain loops, ``transformers.Trainer``, TRL and ``generate``.

The shipped micro model, rows and requests of the scenes as a run makes them, batch 16 of which a quarter of the rows
is text, LoRA r=16 and projector, AdamW, one thread.  The plain loops are what somebody would write who wants nothing
but speed: batches built beforehand, features kept, the head at supervised positions; a static cache, prompts of one
length.  They pad as everybody does.  ``bench/compare.py`` calls both groups.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from compare import Side, lacking, marginal, timed
from transformers import StaticCache

from textreg.data import mixture
from textreg.data.images import ImageTable
from textreg.scenes import rows as scenes
from textreg.settings import PrepareData, Tune
from textreg.training.batches import IGNORE, StepBatches, encode
from textreg.training.train import train
from textreg.vlm.adapters import attach, plain
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features, projected
from textreg.vlm.generation import Request, answer, encode_prompts, end_tokens

FEW, MANY = 4, 20  # steps of the two runs of which the difference is taken
ASKED, TOKENS = 256, 40


@cache
def data(work: Path) -> tuple[Tune, pd.DataFrame, Any, ImageTable]:
    """Settings of a tuning arm, its rows, their order, and the pictures."""
    scenes.write(PrepareData(run=str(work), align_rows=8, visual_rows=800, text_rows=400, test_images=40))
    settings = Tune(run=str(work), steps=MANY)
    rows, order = mixture.arm_rows(settings)
    return settings, rows, order.positions, ImageTable.read(work / "prepare_data" / "images.parquet")


def fresh(tuned: bool = True) -> tuple[Any, Any]:
    """The shipped parts put together, with a new adapter; and the processor."""
    torch.set_num_threads(1)
    model, processor = assemble("shipped", "shipped")
    return (attach(model, rank=16, alpha=32) if tuned else model), processor


@cache
def seen(work: Path) -> Any:
    """The kept features of all pictures."""
    model, processor = fresh(tuned=False)
    return open_features(model, processor, data(work)[3], work / "features")


def ours(work: Path) -> Callable[[int], Callable[[], object]]:
    """:func:`textreg.training.train.train`, rows tokenised in it."""
    _, rows, order, _ = data(work)

    def prepared(steps: int) -> Callable[[], object]:
        model, processor = fresh()
        settings = Tune(run=str(work), steps=steps, log_steps=1000)
        return lambda: train(model, processor, rows, seen(work), settings, work / f"out-{steps}", order=order)

    return prepared


def bare_loop(work: Path) -> Callable[[int], Callable[[], object]]:
    """The same steps on padded batches that are there already, in the fewest lines."""
    settings, rows, order, _ = data(work)
    samples = encode(fresh(tuned=False)[1], rows, seen(work), max_length=settings.max_length)
    batches = list(StepBatches(samples, order, steps=MANY, batch_size=16, groups=1, features=seen(work)))

    def prepared(steps: int) -> Callable[[], object]:
        model = fresh()[0]
        return lambda: steps_of(model, batches[:steps])

    return prepared


def steps_of(model: Any, batches: list[dict[str, Any]]) -> None:
    """Forward, backward, clip, step: nothing else."""
    vlm = plain(model.train())
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    for batch in batches:
        pictures = projected(vlm, batch)
        hidden = vlm.model(
            input_ids=batch["input_ids"], mm_encoder_outputs=pictures, use_cache=False
        ).last_hidden_state
        targets = batch["labels"][:, 1:]
        scored = targets != IGNORE
        loss = torch.nn.functional.cross_entropy(vlm.lm_head(hidden[:, :-1][scored]), targets[scored])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def records(work: Path) -> list[dict[str, Any]]:
    """Rows in training order as text and picture, which is what the peers take."""
    _, rows, order, images = data(work)
    shown = rows.iloc[order[: MANY * 16]]
    return [
        {
            "messages": [dict(turn) for turn in row.messages],
            "images": [images.image(row.image_id)] if isinstance(row.image_id, str) else [],
        }
        for row in shown.itertuples()
    ]


def collated(processor: Any) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """Template, processor and labels in the collator, as tutorials do it."""
    end = processor.tokenizer.eos_token_id

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [processor.tokenizer.apply_chat_template(item["messages"], tokenize=False) for item in batch]
        pictures = [picture for item in batch for picture in item["images"]]
        found = processor(text=texts, images=pictures or None, padding=True, padding_side="right", return_tensors="pt")
        labels = found["input_ids"].clone()
        labels[(found["attention_mask"] == 0) | (labels == processor.image_token_id)] = IGNORE
        labels[:, 0] = torch.where(labels[:, 0] == end, IGNORE, labels[:, 0])
        return dict(found) | {"labels": labels}

    return collate


def by_trainer(work: Path) -> Callable[[int], Callable[[], object]]:
    """A plain ``transformers.Trainer``, pixels through the tower, the model's own loss over all positions."""
    from transformers import Trainer, TrainingArguments

    def prepared(steps: int) -> Callable[[], object]:
        model, processor = fresh()
        arguments = TrainingArguments(max_steps=steps, remove_unused_columns=False, **common(work))
        held, collate = records(work), collated(processor)
        return lambda: Trainer(model=model, args=arguments, data_collator=collate, train_dataset=held).train()

    return prepared


def by_trl(work: Path) -> Callable[[int], Callable[[], object]]:
    """TRL's ``SFTTrainer`` at its best stock setting here: no checkpointing, fused AdamW, float32, our collator."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def prepared(steps: int) -> Callable[[], object]:
        model, processor = fresh()
        held, collate = records(work), collated(processor)
        numbers = Dataset.from_dict({"number": list(range(len(held)))})
        arguments = SFTConfig(
            max_steps=steps, remove_unused_columns=False, gradient_checkpointing=False, bf16=False, max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True}, **common(work),
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=numbers, processing_class=processor,
            data_collator=lambda batch: collate([held[item["number"]] for item in batch]),
        )  # fmt: skip
        return trainer.train

    return prepared


def common(work: Path) -> dict[str, Any]:
    """Arguments of both trainers."""
    return {
        "output_dir": str(work / "peer"), "per_device_train_batch_size": 16, "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine", "optim": "adamw_torch_fused", "logging_steps": 1000, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip


def tune(work: Path) -> list[Side]:
    """One more tuning step."""
    row = "tuning step"
    return [
        Side(row, "ours", lambda: marginal(ours(work), FEW, MANY)),
        Side(row, "bare loop", lambda: marginal(bare_loop(work), FEW, MANY)),
        Side(row, "Trainer", lambda: marginal(by_trainer(work), FEW, MANY)),
        Side(row, "TRL", lambda: marginal(by_trl(work), FEW, MANY), lacking("trl")),
    ]


def answering(work: Path) -> list[Side]:
    """Greedy answers to one question about many pictures, until each has ended."""
    model, processor = fresh(tuned=False)
    _, _, _, images = data(work)
    names, prompt = images.ids[:ASKED], "<image>\nDescribe the image."
    requests = [Request(prompt, name) for name in names]
    ids = torch.tensor(np.stack(encode_prompts(processor, requests, seen(work))))
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    end = torch.tensor(end_tokens(model))

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, ASKED, 128):
            chosen = ids[start : start + 128]
            kept = StaticCache(config=model.config.get_text_config(), max_cache_len=ids.shape[1] + TOKENS)
            pictures = projected(model, seen(work).fetch(names[start : start + 128]))
            step = model.model(input_ids=chosen, mm_encoder_outputs=pictures, past_key_values=kept, use_cache=True)
            token = model.lm_head(step.last_hidden_state[:, -1]).argmax(-1)
            ended = torch.isin(token, end)
            for place in range(ids.shape[1], ids.shape[1] + TOKENS - 1):
                if ended.all():
                    break
                position = torch.full((len(chosen), 1), place)
                step = model.model.language_model(
                    input_ids=token[:, None], position_ids=position, past_key_values=kept, use_cache=True
                )
                token = model.lm_head(step.last_hidden_state[:, -1]).argmax(-1)
                ended |= torch.isin(token, end)

    def stock(size: int, count: int) -> None:
        for start in range(0, count, size):
            pictures = [images.image(name) for name in names[start : min(start + size, count)]]
            inputs = processor(text=[text] * len(pictures), images=pictures, return_tensors="pt")
            model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)

    def own() -> None:
        answer(model, processor, requests, seen(work), max_new_tokens=TOKENS)

    row = "answers, batch 128"
    return [
        Side(row, "ours", lambda: timed(own, ASKED)),
        Side(row, "bare static-cache loop", lambda: timed(bare, ASKED)),
        Side(row, "generate", lambda: timed(lambda: stock(128, ASKED), ASKED)),
        Side(row, "generate, one at a time", lambda: timed(lambda: stock(1, 24), 24)),
    ]


GROUPS = {"tune": tune, "answer": answering}
