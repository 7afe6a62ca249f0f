"""How far a long round of requests is: a bar on a terminal, plain lines in a log.

Both go to stderr, so that what a command prints on stdout can be piped.

Use: ``with counting("answers", 300, kept=20) as advance: ...; advance()``.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(what: str, total: int, kept: int = 0, shown: bool = True) -> Iterator[Callable[[], None]]:
    """A function to call once per ``what`` that is done: a bar on a terminal, else a line every tenth of the way.

    ``kept`` of them were there before and count as done.
    """
    if not shown:
        yield lambda: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total + kept, completed=kept)
            yield lambda: bar.advance(task)
    else:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                print(f"{what}: {done + kept} of {total + kept}", file=sys.stderr, flush=True)

        yield advance
