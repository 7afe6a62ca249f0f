"""What one field of a profile alone cannot show: settings that contradict each other or name what is not there.

Each is refused when the profile is read, in one line with the cure, and not hours later by the stage that stumbles
over it.

    profile_checks.check_settings(profiles.resolve(profile, "merge", "TR"), "p.yaml: merge[TR]")
"""

import re
from dataclasses import fields

from textreg.errors import InputError, did_you_mean
from textreg.settings import Evaluate, Merge, PrepareData, Stage, Training, Tune

#: A name or a query in an address, and keys that say what they are.
CREDENTIALS = re.compile(r"://[^/\s@]+@|://\S*\?|\b(sk|hf|ghp)[-_][A-Za-z0-9_-]{12,}")


def check_settings(settings: Stage, where: str) -> None:
    """Raises :class:`InputError`, beginning with ``where``, for settings of one unit that cannot work together."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and CREDENTIALS.search(text):
                raise InputError(f"{where}: {field.name} looks like a credential; put it into an environment variable")
    if isinstance(settings, PrepareData):
        _check_languages(settings, where)
    if isinstance(settings, Training) and settings.micro_batch:
        rows, part = settings.batch_size, settings.micro_batch
        if rows % part:
            raise InputError(
                f"{where}: batch_size {rows} is no multiple of micro_batch {part}; change one, or set micro_batch 0"
            )
    if isinstance(settings, Tune) and settings.text != "none" and settings.text_share == 0:
        raise InputError(f"{where}: text = {settings.text} with text_share 0; say text: none, or give it a share")
    if isinstance(settings, Merge) and 1.0 not in settings.lambdas:
        raise InputError(
            f"{where}: lambdas lack 1.0, the tuned model that the others are compared with; add it to the list"
        )
    if isinstance(settings, Evaluate) and settings.judge == "llm":
        for key in ("judge_endpoint", "judge_model"):
            if not getattr(settings, key):
                raise InputError(f"{where}: judge = llm needs {key}; set it, or take another judge")


def _check_languages(settings: PrepareData, where: str) -> None:
    from textreg.scenes import languages

    known = set(languages.codes())
    evaluated = known
    if settings.scale == "hub":
        from textreg.data import crossmodal

        evaluated = set(crossmodal.languages())
        known = known | evaluated
    for key, accepted in (("languages", evaluated), ("held_out", evaluated), ("text_languages", known)):
        given = getattr(settings, key)
        for code in given:
            if code not in accepted:
                raise InputError(f"{where}: {key}: unknown language {code!r}{did_you_mean(code, accepted)}")
    if "en" not in settings.languages:
        raise InputError(f"{where}: languages lack en; seeing is measured in English, add it")
    both = sorted(set(settings.held_out) & set(settings.text_languages))
    if both:
        raise InputError(
            f"{where}: {', '.join(both)} is in held_out and in text_languages; it can be in one of them only"
        )
