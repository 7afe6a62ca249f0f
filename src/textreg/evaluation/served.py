"""Systems that a server answers for, in place of the loop in :mod:`textreg.vlm.generation`: vLLM or any other that
speaks OpenAI's protocol.

At hub scale a server with prefix caching is many times as fast, and what it serves is the exported folder itself.  The
model's name at the server is that of the system (``vllm serve FOLDER --served-model-name TR+M``).  What a server does
not offer ends the stage in one line, and what was answered is kept, so that systems may be served one after the other.

Use: ``05_evaluate`` with ``endpoint = "http://localhost:8000/v1"``.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from textreg.data.images import ImageTable, data_url, encode_png
from textreg.data.requests import IMAGE_TURN
from textreg.errors import RunError
from textreg.fidelity.service import Service, Session, Unanswered, for_each, run_async
from textreg.files import Journal
from textreg.settings import Evaluate


def ask_server(settings: Evaluate, system: str, asked: pd.DataFrame, journal: Journal, keys: Sequence[str]) -> None:
    """Answer the requests ``asked`` and keep each in the journal under its key, with the reason why it ended.

    ``batch_size`` requests are in flight.  Raises InputError and RunError as
    :meth:`textreg.fidelity.service.Session.ask` does, and RunError where a request got no answer.
    """
    images = ImageTable.read(Path(settings.run) / "prepare_data" / "images.parquet", ids=asked["image_id"].dropna())
    service = Service(settings.endpoint, system, concurrency=settings.batch_size)
    silent: Counter[str] = Counter()

    async def work() -> tuple[str, ...]:
        async with Session(service) as session:

            async def ask(row: Any) -> None:
                shown = None if pd.isna(row.image_id) else images.image(row.image_id)
                parts = {"temperature": 0, "max_tokens": settings.max_new_tokens}
                try:
                    reply = await session.ask([{"role": "user", "content": _content(row.prompt, shown)}], **parts)
                except Unanswered as failure:
                    silent[str(failure)] += 1
                else:
                    journal.append(keys[row.Index], {"answer": reply.text, "finish": reply.finish})

            await for_each(asked.reset_index(drop=True).itertuples(), ask, service.concurrency)
            return session.notes

    for note in run_async(work()):
        print(note)
    if silent:
        reasons = "; ".join(f"{why} ({count} times)" for why, count in silent.most_common(3))
        raise RunError(f"{system} at {service.url}: {silent.total()} requests got no answer: {reasons}; run it again")


def _content(prompt: str, picture: Any) -> str | list[dict[str, Any]]:
    """The picture before the words, as it was trained."""
    if picture is None:
        return prompt
    image = {"type": "image_url", "image_url": {"url": data_url(encode_png(picture))}}
    return [image, {"type": "text", "text": prompt.removeprefix(IMAGE_TURN)}]
