"""Is an answer in the language it was asked in, and is it right?  Everything that is measured of answers.

``annotation`` says what can be said of one answer, ``measures`` counts over many, with ``intervals`` for the bounds.
Who says what language a text is in: ``identifiers`` opens one by name, ``py3langid`` always, GlotLID and lingua
(``optional``) where asked for; what they have in common is in ``labels``.
Who says whether languages are mixed: the grammars of ``scenes``, or a language model (``judges``, which asks through
``service``).  ``linewise`` holds the line and word pass rates, ``references`` the scores against what people wrote.

May import ``scenes`` and ``data``; knows nothing of models, runs or figures, and works on anyone's table of answers.
Notebooks: ``04_merge``, ``05_evaluate``.
"""
