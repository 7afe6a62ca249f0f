"""Visual rows whose answers are the published model's own: what a model is tuned on where nobody has its data.

A published model has forgotten nothing yet, and its tuning data is rarely published.  Its own answers to English
questions about pictures (*replay*; rehearsal by a model's own output is old, cf. Robins 1995) keep it where it is,
while the text rows move its language.  The choices that are not obvious: only the first question of a row is asked,
because the next ones speak of answers that were not given; an answer that the limit cut off is left out, because it
would teach to stop in the middle of a sentence; answers are kept one by one, so that an interrupted replay goes on.

Used by ``02_align`` where ``replay`` is above 0; :func:`textreg.data.mixture.arm_rows` reads what it writes.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.data.mixture import REPLAYED
from textreg.data.rows import ROWS, RowWriter, read_rows
from textreg.errors import InputError
from textreg.files import Journal
from textreg.vlm.features import open_features
from textreg.vlm.generation import LENGTH, Request, answer

if TYPE_CHECKING:
    from textreg.data.images import ImageTable
    from textreg.settings import Align
    from textreg.vlm.assembly import Base


def replayed(model: Any, processor: Any, images: "ImageTable", base: "Base", settings: "Align") -> Counter:
    """Ask ``model`` the visual rows of the run, at most ``settings.replay`` tokens an answer, and write
    ``align/replay.parquet``.

    Returns how many rows were ``kept``, ``cut`` off and ``empty``.  Raises :class:`InputError` where none is kept.
    """
    run = Path(settings.run)
    rows = read_rows(run / "prepare_data" / "visual.parquet")
    asked = [
        Request(next(turn["content"] for turn in turns if turn["role"] == "user"), image)
        for turns, image in zip(rows["messages"], rows["image_id"], strict=True)
    ]
    made = hashlib.sha256(repr((base, settings.replay, settings.precision)).encode()).hexdigest()[:16]
    keys = [
        f"{made}|{row}|{hashlib.sha256(request.prompt.encode()).hexdigest()[:16]}"
        for row, request in zip(rows["row_id"], asked, strict=True)
    ]
    seen = open_features(model, processor, images, ids=rows["image_id"].unique(), cache=False)
    with Journal(run / "align" / "replay.jsonl", {"answer": str, "finish": str}) as journal:
        missing = [place for place, key in enumerate(keys) if key not in journal]

        def keep(batch: list) -> None:
            for place, found in batch:
                journal.append(keys[missing[place]], {"answer": found.text, "finish": found.finish})

        how = {"max_new_tokens": settings.replay, "batch_size": settings.batch_size, "on_batch": keep}
        answer(model, processor, [asked[place] for place in missing], seen, **how)
        said = [journal[key] for key in keys]
    told: Counter = Counter()
    with RowWriter(run / "align" / REPLAYED, ROWS) as writer:
        for row, request, found in zip(rows.itertuples(), asked, said, strict=True):
            what = "cut" if found["finish"] == LENGTH else "kept" if found["answer"] else "empty"
            told[what] += 1
            if what == "kept":
                turns = [("user", request.prompt), ("assistant", found["answer"])]
                messages = [{"role": role, "content": content} for role, content in turns]
                record = {name: getattr(row, name) for name in ("row_id", "task", "language", "image_id")}
                writer.write({**record, "source": f"{row.source} (replayed)", "messages": messages})
        if not writer.rows:
            raise InputError(f"replay: no answer of {len(said)} can be learnt ({dict(told)}): raise align.replay")
    return told
