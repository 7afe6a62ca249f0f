"""What every system answers, at every lambda, and what that comes to: the work of three notebooks.

``answering`` asks the systems of a run and keeps each answer as it comes, ``sweep`` chooses lambda on the validation
split, ``tables`` adds the verdicts and makes what ``05_evaluate`` writes, ``mechanism`` looks inside: first tokens,
openings, probes.

May import every room of the path that a student reads: ``scenes``, ``micro``, ``data``, ``fidelity``, ``vlm``,
``training``.
Notebooks: ``04_merge``, ``05_evaluate``, ``07_mechanism``.
"""
